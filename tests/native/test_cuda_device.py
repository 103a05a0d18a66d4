"""The fused Hawkes attention on a GPU against the reference there."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch

from emorec.ops import hawkes_attention, library
from tests.ops.hawkes_inputs import DAY, Inputs, assert_as_accurate_as_reference, make_inputs

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        library.problem("cuda") is not None, reason=f"no CUDA kernels: {library.problem('cuda')}"
    ),
]

FLOATS = [torch.float32, torch.bfloat16]
OPTIONS = {
    "causal": {},
    "full": {"causal": False},
    "window": {"causal": False, "window": 10.0},
    "additive": {"decay": "additive", "window": 20.0},
    "additive-full": {"decay": "additive", "causal": False},
    "mask-self": {"mask_self": True, "scale": 0.3},
    "sum": {"sum_heads": True, "causal": False},
    "dropout": {"dropout": 0.3, "seed": 5},
    "dropout-sum": {"dropout": 0.3, "seed": 5, "sum_heads": True, "causal": False},
}


def on_gpu(inputs: Inputs) -> Inputs:
    moved = {
        field.name: value.cuda()
        for field in fields(inputs)
        if (value := getattr(inputs, field.name)) is not None
    }
    return replace(inputs, **moved)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("head_scores", [False, True], ids=["shared-scores", "head-scores"])
@pytest.mark.parametrize("with_key", [False, True], ids=["key-is-query", "key"])
def test_options(dtype: torch.dtype, options: dict, head_scores: bool, with_key: bool) -> None:
    inputs = make_inputs([70, 0, 33], 2, 16, 24, head_scores=head_scores, with_key=with_key)
    assert_as_accurate_as_reference(on_gpu(inputs), dtype, **options)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("length", [0, 1, 2, 3, 63, 64, 65, 129, 1025])
@pytest.mark.parametrize("causal", [True, False])
def test_lengths(dtype: torch.dtype, length: int, causal: bool) -> None:
    assert_as_accurate_as_reference(on_gpu(make_inputs([length], size=64)), dtype, causal=causal)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("size", [8, 12, 32, 50, 64, 100, 128, 256])
def test_sizes(dtype: torch.dtype, size: int) -> None:
    inputs = make_inputs([40, 9], 2, size, magnitude=0.5)
    assert_as_accurate_as_reference(on_gpu(inputs), dtype, causal=False)
    inputs = make_inputs([40, 9], 2, 16, size, with_key=True)
    assert_as_accurate_as_reference(on_gpu(inputs), dtype)


@pytest.mark.parametrize("gap", [0.0, 0.001, 100 * 365 * DAY])
@pytest.mark.parametrize("decay", ["multiplicative", "additive"])
def test_gaps(gap: float, decay: str) -> None:
    inputs = make_inputs([100])
    time = inputs.time[0] + gap * torch.arange(100, dtype=torch.float64)
    assert_as_accurate_as_reference(on_gpu(replace(inputs, time=time)), torch.float32, decay=decay)


def test_runs_are_bitwise_equal() -> None:
    inputs = on_gpu(make_inputs([300, 7, 129], 4, 64)).to(torch.float32)
    first, second = (inputs.run("fused", dropout=0.2, seed=3) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_mask_of_dropout_is_the_cpus() -> None:
    inputs = make_inputs([90, 40], 2, 32).to(torch.float32)
    there = on_gpu(inputs).run("fused", dropout=0.5, seed=3)
    for name, here in inputs.run("reference", dropout=0.5, seed=3).items():
        torch.testing.assert_close(there[name].cpu(), here, rtol=1e-3, atol=1e-4)


def test_tensor_cores_for_float32_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = on_gpu(make_inputs([200], 2, 64)).to(torch.float32)
    exact = inputs.run("fused")["output"]
    monkeypatch.setenv("EMOREC_TF32", "1")
    rounded = inputs.run("fused")["output"]
    error = float((rounded - exact).abs().max() / exact.abs().max())
    assert 1e-6 < error < 1e-2


def test_current_stream_is_used() -> None:
    inputs = on_gpu(make_inputs([500], 2, 64)).to(torch.float32)
    expected = inputs.run("fused")["output"]
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # what is queued on this stream must come after
        value = inputs.value * 1.0
        output = replace(inputs, value=value).run("fused")["output"]
    stream.synchronize()
    torch.testing.assert_close(output, expected, rtol=0, atol=0)


def test_memory_grows_with_tokens_not_pairs() -> None:
    def peak(length: int) -> int:
        inputs = on_gpu(make_inputs([length], 2, 64)).to(torch.float32)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        inputs.run("fused")
        return torch.cuda.max_memory_allocated() - before

    peak(64)
    assert peak(8192) < 2.5 * peak(4096)


def test_registered_operator_is_sound() -> None:
    inputs = on_gpu(make_inputs([40, 9], 2, 16)).to(torch.float32)
    arguments = (
        inputs.query[:, None].clone().requires_grad_(),
        None,
        inputs.value.clone().requires_grad_(),
        inputs.time,
        inputs.position.int(),
        inputs.cu_seqlens,
        inputs.decay_rate.double().requires_grad_(),
        inputs.decay_rate.double() * 0,
        None,
    )
    torch.library.opcheck(
        torch.ops.emorec.hawkes_attention_fwd.default,
        (*arguments, 0.25, 0.0, False, True, False, False),
    )


def test_float64_and_huge_heads_are_refused() -> None:
    inputs = on_gpu(make_inputs([5]))
    with pytest.raises(RuntimeError, match="float64 has no CUDA kernel"):
        inputs.run("fused")
    with pytest.raises(RuntimeError, match="sizes up to 256"):
        on_gpu(make_inputs([5], size=264)).to(torch.float32).run("fused")


def test_every_device_can_be_used() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    inputs = on_gpu(make_inputs([50])).to(torch.float32)
    expected = inputs.run("fused")["output"]
    elsewhere = {
        f.name: v.to("cuda:1") for f in fields(inputs) if (v := getattr(inputs, f.name)) is not None
    }
    arguments = replace(inputs, **elsewhere)
    assert torch.cuda.current_device() == 0
    output = hawkes_attention(
        arguments.query,
        None,
        arguments.value,
        arguments.time,
        arguments.position,
        arguments.cu_seqlens,
        arguments.decay_rate,
        backend="fused",
    )
    torch.testing.assert_close(output.cpu(), expected.cpu(), rtol=0, atol=0)
