"""The fused Hawkes attention within PyTorch: gradcheck, opcheck, compile, autocast, dropout."""

from __future__ import annotations

import importlib
import logging
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from emorec.ops import library, registration
from emorec.ops.hawkes_attention import hawkes_attention, hawkes_attention_dense
from tests.ops.hawkes_inputs import Inputs, make_inputs
from tests.ops.operators import needs_library

# The package exports the function of the same name.
module = importlib.import_module("emorec.ops.hawkes_attention")


def call(inputs: Inputs, backend: str = "fused", **options: Any) -> Tensor:
    arguments = {k: v for k, v in vars(inputs).items() if k != "upstream"}
    return hawkes_attention(**arguments, backend=backend, **options)


@needs_library
@pytest.mark.parametrize("with_key", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"causal": False, "window": 3.0, "sum_heads": True},
        {"decay": "additive", "mask_self": True},
        {"dropout": 0.4, "seed": 7},
    ],
    ids=str,
)
def test_gradcheck(with_key: bool, options: dict) -> None:
    inputs = make_inputs([5, 0, 3], 2, 3, 4, with_key=with_key, rate=1e-5)

    def run(query: Tensor, value: Tensor, hours: Tensor, key: Tensor | None) -> Tensor:
        changed = {**vars(inputs), "query": query, "value": value, "key": key}
        return call(Inputs(**{**changed, "decay_rate": hours / 3600}), **options)

    leaves = [inputs.query, inputs.value, inputs.decay_rate * 3600, inputs.key]
    leaves = [None if leaf is None else leaf.clone().requires_grad_() for leaf in leaves]
    assert torch.autograd.gradcheck(run, leaves)


@needs_library
@pytest.mark.parametrize("with_key", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("sum_heads", [False, True])
def test_opcheck(with_key: bool, dropout: float, sum_heads: bool) -> None:
    inputs = make_inputs([5, 0, 3], 2, 4, head_scores=True, with_key=with_key).to(torch.float32)
    arguments = (
        inputs.query.requires_grad_(),
        inputs.key.requires_grad_() if with_key else None,
        inputs.value.requires_grad_(),
        inputs.time,
        inputs.position.int(),
        inputs.cu_seqlens,
        inputs.decay_rate.double().requires_grad_(),
        torch.full((2,), 0.1, dtype=torch.float64),
        torch.tensor([3]) if dropout else None,
        0.5,
        dropout,
        False,
        True,
        False,
        sum_heads,
    )
    operators = torch.ops.emorec
    torch.library.opcheck(operators.hawkes_attention_fwd.default, arguments)
    output, log_sum = operators.hawkes_attention_fwd(*arguments)
    detached = [a.detach() if isinstance(a, Tensor) else a for a in arguments]
    torch.library.opcheck(
        operators.hawkes_attention_bwd.default,
        (torch.ones_like(output), log_sum.detach(), *detached),
    )


@needs_library
@pytest.mark.parametrize(
    ("compiler", "dropout"), [("aot_eager", 0.0), ("aot_eager", 0.3), ("inductor", 0.3)]
)
def test_compiles_as_one_graph(compiler: str, dropout: float) -> None:
    inputs = make_inputs([6, 3], 2, 4).to(torch.float32)

    def loss(query: Tensor, value: Tensor, rate: Tensor) -> Tensor:
        output = hawkes_attention(
            query * 2,
            None,
            value.relu(),
            inputs.time,
            inputs.position,
            inputs.cu_seqlens,
            rate.exp(),
            window=5.0,
            dropout=dropout,
            seed=torch.tensor([3]),
            backend="fused",
        )
        return output.square().sum()

    leaves = [inputs.query, inputs.value, inputs.decay_rate.log()]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    expected = loss(*leaves)
    compiled = torch.compile(loss, fullgraph=True, backend=compiler)(*leaves)
    torch.testing.assert_close(compiled, expected)
    torch.testing.assert_close(
        torch.autograd.grad(compiled, leaves), torch.autograd.grad(expected, leaves)
    )


@needs_library
def test_autocast_leaves_times_alone() -> None:
    inputs = make_inputs([40], rate=1.0, gap=lambda u: torch.ones_like(u)).to(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        output = call(inputs)
        plain = call(inputs, "reference")
    assert output.dtype == plain.dtype == torch.bfloat16
    exact = call(inputs.to(torch.bfloat16).to(torch.float64))
    assert (output - exact).abs().max() <= 0.01 * exact.abs().max()


@needs_library
def test_half_precision_goes_through_float32() -> None:
    inputs = make_inputs([9]).to(torch.float16)
    output = call(inputs)
    assert output.dtype == torch.float16
    torch.testing.assert_close(output, call(inputs.to(torch.float32)).half())


@needs_library
def test_dropout_keeps_the_mean() -> None:
    inputs = make_inputs([64], 2, 4, magnitude=0.0).to(torch.float64)
    plain = call(inputs)
    draws = torch.stack([call(inputs, dropout=0.25, seed=seed) for seed in range(2000)])
    deviation = draws.std(0) / 2000**0.5
    assert ((draws.mean(0) - plain).abs() <= 5 * deviation + 1e-12).all()


@needs_library
def test_dropout_drops_the_given_share_independently() -> None:
    """With uniform weights and values 1, 2, 4, ... the kept keys are the bits of the output."""
    keys = 16
    value = 2.0 ** torch.arange(keys, dtype=torch.float64).repeat(500)[:, None, None]
    tokens = len(value)
    output = hawkes_attention(
        torch.zeros(tokens, 1, dtype=torch.float64),
        None,
        value,
        torch.zeros(tokens, dtype=torch.int64),
        torch.zeros(tokens, dtype=torch.int64),
        torch.arange(0, tokens + 1, keys),
        torch.zeros(1),
        causal=False,
        dropout=0.25,
        seed=11,
        backend="fused",
    )
    number = (output[:, 0, 0] * keys * 0.75).round().long()
    kept = (number[:, None] >> torch.arange(keys)) & 1  # [8000, 16]
    assert abs(kept.double().mean() - 0.75) < 5 * (0.75 * 0.25 / kept.numel()) ** 0.5
    both = (kept[:, 1:] * kept[:, :-1]).double()  # neighbours in a row
    assert abs(both.mean() - 0.75**2) < 0.006
    above = (kept[1:] * kept[:-1]).double()  # and in a column
    assert abs(above.mean() - 0.75**2) < 0.006


@needs_library
def test_dropout_seeds() -> None:
    inputs = make_inputs([30]).to(torch.float32)
    same = [call(inputs, dropout=0.5, seed=3), call(inputs, dropout=0.5, seed=torch.tensor([3]))]
    assert torch.equal(*same)
    assert not torch.equal(same[0], call(inputs, dropout=0.5, seed=4))
    assert not torch.equal(call(inputs, dropout=0.5), call(inputs, dropout=0.5))
    drawn = []
    for _ in range(2):
        torch.manual_seed(0)
        drawn.append(call(inputs, dropout=0.5))
    assert torch.equal(*drawn)
    assert len({float(call(inputs, dropout=0.5).sum()) for _ in range(50)}) == 50


@pytest.mark.parametrize("backend", ["reference", pytest.param("fused", marks=needs_library)])
def test_without_a_seed_each_call_drops_others(backend: str) -> None:
    inputs = make_inputs([64], 2, 4, magnitude=0.0).to(torch.float64)
    one, other = (call(inputs, backend, dropout=0.25) for _ in range(2))
    assert not torch.allclose(one, other)
    before = torch.get_rng_state()
    torch.testing.assert_close(call(inputs, backend), call(inputs, "reference"))
    assert torch.equal(torch.get_rng_state(), before)  # nothing is drawn where nothing is dropped


@pytest.mark.parametrize("backend", ["reference", pytest.param("fused", marks=needs_library)])
@pytest.mark.parametrize("sum_heads", [False, True])
def test_dense(backend: str, sum_heads: bool) -> None:
    inputs = make_inputs([4, 0, 2]).to(torch.float64)
    packed = call(inputs, backend, sum_heads=sum_heads, window=5.0)
    mask = torch.tensor([[0, 1, 1, 1, 1], [0, 0, 0, 0, 0], [1, 0, 0, 1, 0]], dtype=torch.bool)

    def padded(values: Tensor) -> Tensor:
        return values.new_full((3, 5, *values.shape[1:]), 7).masked_scatter(
            mask.view(3, 5, *(1 for _ in values.shape[1:])), values
        )

    dense = hawkes_attention_dense(
        padded(inputs.query),
        None,
        padded(inputs.value),
        padded(inputs.time),
        inputs.decay_rate,
        position=padded(inputs.position),
        mask=mask,
        window=5.0,
        sum_heads=sum_heads,
        backend=backend,
    )
    torch.testing.assert_close(dense[mask], packed)
    assert (dense[~mask] == 0).all()


def test_dense_names_what_does_not_fit() -> None:
    value, rate = torch.zeros(2, 6, 1, 4), torch.ones(1)
    with pytest.raises(ValueError, match=r"value must be \[B, L, H, Dv\], got \[6, 1, 4\]"):
        hawkes_attention_dense(value[0], None, value[0], torch.zeros(2, 6), rate)
    with pytest.raises(ValueError, match=r"time must be \[2, 6, ...\], got \[2, 5\]"):
        hawkes_attention_dense(value, None, value, torch.zeros(2, 5), rate)


@pytest.mark.parametrize("backend", ["reference", pytest.param("fused", marks=needs_library)])
def test_dense_without_padding(backend: str) -> None:
    inputs = make_inputs([6, 6]).to(torch.float64)
    dense = hawkes_attention_dense(
        inputs.query.view(2, 6, -1),
        None,
        inputs.value.view(2, 6, 2, -1),
        inputs.time.view(2, 6),
        inputs.decay_rate,
        window=5.0,
        backend=backend,
    )
    torch.testing.assert_close(dense.flatten(0, 1), call(inputs, backend, window=5.0))


def test_missing_library_is_logged_once_and_fused_raises(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    inputs = make_inputs([4])
    monkeypatch.setattr(library, "load", lambda: {"cpu": "it is not built (a test)"})
    with caplog.at_level(logging.WARNING, "emorec"):
        output = call(inputs, "auto")
        call(inputs, "auto")
    assert [record.getMessage() for record in caplog.records] == [
        "The slower PyTorch reference runs: it is not built (a test)"
    ]
    assert torch.equal(output, call(inputs, "reference"))
    with pytest.raises(RuntimeError, match="backend='fused': it is not built"):
        call(inputs, "fused")


@needs_library
def test_a_library_of_older_sources_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "_declared", {})
    registration.declare("not_in_this_library", lambda: None)
    problem = library.load.__wrapped__()["cpu"]
    assert "emorec::not_in_this_library does not exist" in problem
    assert "`make build` rebuilds it" in problem


@pytest.mark.parametrize(
    ("dtypes", "sizes", "reason"),
    [
        ((torch.float64, torch.float64), (4, 4), "float64 has no CUDA kernel"),
        ((torch.float64, torch.float32), (4, 4), "float64 has no CUDA kernel"),
        ((torch.float32, torch.float32), (257, 4), "the CUDA kernel takes sizes up to 256 per"),
        ((torch.float32, torch.float32), (4, 257), "the CUDA kernel takes sizes up to 256 per"),
        ((torch.float32, torch.float32), (256, 256), None),
    ],
)
def test_auto_runs_the_reference_for_what_the_cuda_kernel_does_not_support(
    dtypes: tuple[torch.dtype, torch.dtype],
    sizes: tuple[int, int],
    reason: str | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    inputs = make_inputs([3], 2, *sizes, head_scores=True).to(dtypes[0])
    inputs = replace(inputs, value=inputs.value.to(dtypes[1]))
    library.warn_once.cache_clear()
    monkeypatch.setattr(library, "load", dict)  # as if the CUDA library were there
    monkeypatch.setattr(module, "_hawkes_attention_fused", lambda *_, **__: "fused")
    monkeypatch.setattr(module, "hawkes_attention_ref", lambda *_, **__: "reference")
    mode, gpu = FakeTensorMode(), torch.device("cuda")  # shapes alone, so it needs no GPU
    on_gpu = Inputs(
        **{
            k: v if v is None else FakeTensor(mode, v.to("meta"), gpu)
            for k, v in vars(inputs).items()
        }
    )
    with caplog.at_level(logging.WARNING, "emorec"):
        chosen = call(on_gpu, "auto")
    if reason is None:
        assert chosen == call(on_gpu, "fused") == "fused" and not caplog.records
        return
    assert chosen == "reference"
    assert reason in caplog.text
    with pytest.raises(RuntimeError, match=f"backend='fused': {reason}"):
        call(on_gpu, "fused")
