"""The CPU kernels of Hawkes attention: instruction sets, threads, memory, far field."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from emorec.ops import arguments
from tests.ops.hawkes_inputs import DAY, Inputs, assert_as_accurate_as_reference, make_inputs
from tests.ops.operators import needs_library

pytestmark = needs_library

FLOATS = [torch.float32, torch.float64, torch.bfloat16]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("decay", ["multiplicative", "additive"])
def test_every_instruction_set(instruction_set: str, dtype: torch.dtype, decay: str) -> None:
    inputs = make_inputs([65, 1, 30], 3, 20, 28)
    assert_as_accurate_as_reference(inputs, dtype, decay=decay)
    assert_as_accurate_as_reference(
        inputs, dtype, decay=decay, causal=False, window=8.0, sum_heads=True
    )
    keyed = make_inputs([65, 1, 30], 3, 20, 70, head_scores=True, with_key=True)
    assert_as_accurate_as_reference(keyed, dtype, decay=decay, dropout=0.2, seed=3)


@pytest.mark.parametrize("lengths", [[1100], [0, 5, 130, 1, 48, 300]], ids=str)
@pytest.mark.parametrize("with_key", [False, True])
def test_results_do_not_depend_on_the_number_of_threads(lengths: list[int], with_key: bool) -> None:
    inputs = make_inputs(lengths, with_key=with_key).to(torch.float32)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            results.append(inputs.run("fused", dropout=0.1, seed=1))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for name, value in other.items():
            assert torch.equal(value, results[0][name]), name


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("length", [37, 330])
def test_every_element_is_written(dtype: torch.dtype, length: int) -> None:
    inputs = make_inputs([length, 0, 3]).to(dtype)
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)  # new memory is filled with NaN
    try:
        assert torch.utils.deterministic.fill_uninitialized_memory
        assert torch.empty(1).isnan()
        result = inputs.run("fused", mask_self=True)
    finally:
        torch.use_deterministic_algorithms(deterministic)
    assert all(value.isfinite().all() for value in result.values())


@pytest.mark.parametrize("length", [37, 330])
@pytest.mark.parametrize("with_key", [False, True])
def test_scratch_memory_does_not_leak_into_the_next_call(length: int, with_key: bool) -> None:
    def inputs(length: int, magnitude: float = 1.0) -> object:
        return make_inputs([length], with_key=with_key, magnitude=magnitude).to(torch.float32)

    expected = inputs(length).run("fused", causal=False)
    poison = inputs(400, magnitude=float("nan")).run("fused", causal=False)
    assert poison["output"].isnan().all()
    for name, value in inputs(length).run("fused", causal=False).items():
        assert torch.equal(value, expected[name]), name


def test_a_shorter_sequence_that_needs_more_scratch_memory() -> None:
    # Up to a length of 320 all pairs are kept.
    inputs = make_inputs([321, 320, 300, 319]).to(torch.float32)
    together = inputs.run("fused", causal=False)
    alone = make_inputs([321, 320, 300, 319]).to(torch.float32)
    for first, last in ((0, 321), (321, 641)):
        part = Inputs(
            **{
                k: v[first:last] if v is not None and len(v) == 1260 else v
                for k, v in vars(alone).items()
            }
        )
        object.__setattr__(part, "cu_seqlens", torch.tensor([0, last - first]))
        result = part.run("fused", causal=False)
        assert torch.equal(result["output"], together["output"][first:last])
        assert torch.equal(result["query"], together["query"][first:last])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("with_key", [False, True])
def test_far_field(
    dtype: torch.dtype, causal: bool, with_key: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = make_inputs([700, 300], with_key=with_key)
    options = {"causal": causal, "window": torch.tensor([4.0, 7.0])}
    assert_as_accurate_as_reference(inputs, dtype, **options)
    near = inputs.to(dtype).run("fused", **options)
    monkeypatch.setenv("EMOREC_FAR_FIELD", "0")
    full = inputs.to(dtype).run("fused", **options)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    for name, value in near.items():
        error = (value - full[name]).abs().max() / full[name].abs().max()
        assert error <= tolerance, name
    assert not torch.equal(near["output"], full["output"])  # it did something


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("scale", [0.3, 3.0])  # scores of some hundred: the largest is subtracted
def test_far_keys_of_additive_decay_change_nothing(
    dtype: torch.dtype, causal: bool, dropout: float, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = make_inputs([700, 300], gap=lambda u: (u * DAY).round(), rate=12 / DAY).to(dtype)
    options = {"causal": causal, "decay": "additive", "dropout": dropout, "scale": scale}
    options |= {"window": torch.tensor([0.3, 0.1]), "seed": 1}
    near = inputs.run("fused", **options)
    monkeypatch.setenv("EMOREC_FAR_FIELD", "0")
    full = inputs.run("fused", **options)
    for name, value in near.items():
        assert torch.equal(value, full[name]), name


@pytest.mark.parametrize("causal", [True, False])
def test_far_keys_of_additive_decay_are_left_out(causal: bool) -> None:
    inputs = make_inputs([700], rate=0).to(torch.float32)
    inputs.value[:10] = torch.nan
    output = inputs.run("fused", causal=causal, decay="additive", window=0.5)["output"]
    assert output[:10].isnan().all()
    assert output[300:].isfinite().all()


def test_far_field_of_time_alone() -> None:
    inputs = make_inputs([600], gap=lambda u: (u * DAY).round(), rate=3 / DAY)
    assert_as_accurate_as_reference(inputs, torch.float32, causal=False)
    assert_as_accurate_as_reference(inputs, torch.float32, causal=True, mask_self=True)


def test_unknown_instruction_set_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMOREC_ISA", "mmx")
    with pytest.raises(RuntimeError, match="EMOREC_ISA=mmx is not one of"):
        torch.ops.emorec.instruction_set()


@pytest.mark.parametrize(
    ("cu_seqlens", "message"),
    [([0, 5], "from 0 to T = 8"), ([1, 8], "from 0 to T = 8"), ([0, 6, 3, 8], "must not fall")],
)
def test_operator_checks_offsets(
    monkeypatch: pytest.MonkeyPatch, cu_seqlens: list[int], message: str
) -> None:
    # As in compiled code, where nothing can be checked before.
    monkeypatch.setattr(arguments, "_check_values", lambda *_: None)
    inputs = make_inputs([8])
    object.__setattr__(inputs, "cu_seqlens", torch.tensor(cu_seqlens))
    with pytest.raises(RuntimeError, match=message):
        inputs.run("fused")


def test_extra_memory_does_not_grow_with_the_square_of_the_length() -> None:
    if not os.path.exists("/proc/self/status"):
        pytest.skip("reads /proc")
    code = """
import sys, torch
from tests.ops.hawkes_inputs import make_inputs
torch.set_num_threads(1)
def peak():
    return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmHWM"))
make_inputs([8]).run("fused")
inputs = make_inputs([4096], 1, 16).to(torch.float32)
before = peak()
inputs.run("fused", causal=False)
print(peak() - before)
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert int(run.stdout) < 32 * 1024  # KiB; one array of 4096 x 4096 floats alone has 64 MiB
