"""The fused Hawkes attention against the reference: values, every gradient, awkward inputs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.ops.hawkes_inputs import DAY, Inputs, assert_as_accurate_as_reference, make_inputs
from tests.ops.operators import needs_library

pytestmark = needs_library

FLOATS = [torch.float32, torch.float64, torch.bfloat16]
OPTIONS = {
    "causal": {},
    "full": {"causal": False},
    "window": {"causal": False, "window": 10.0},
    "windows": {"window": torch.tensor([5.0, 20.0])},
    "additive": {"decay": "additive", "window": 20.0},
    "additive-full": {"decay": "additive", "causal": False},
    "additive-mask-self": {"decay": "additive", "mask_self": True},
    "mask-self": {"mask_self": True, "scale": 0.3},
    "sum": {"sum_heads": True, "causal": False},
    "dropout": {"dropout": 0.3, "seed": 5},
    "dropout-sum": {"dropout": 0.3, "seed": 5, "sum_heads": True, "causal": False},
}


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("head_scores", [False, True], ids=["shared-scores", "head-scores"])
@pytest.mark.parametrize("with_key", [False, True], ids=["key-is-query", "key"])
def test_options(dtype: torch.dtype, options: dict, head_scores: bool, with_key: bool) -> None:
    inputs = make_inputs([70, 33], 2, 16, 24, head_scores=head_scores, with_key=with_key)
    assert_as_accurate_as_reference(inputs, dtype, **options)


@pytest.mark.parametrize("length", [0, 1, 2, 3, 63, 64, 65, 129, 1025])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("with_key", [False, True])
def test_lengths(length: int, causal: bool, with_key: bool) -> None:
    inputs = make_inputs([length], with_key=with_key)
    assert_as_accurate_as_reference(inputs, torch.float32, causal=causal)
    assert_as_accurate_as_reference(inputs, torch.float32, causal=causal, mask_self=True)


@pytest.mark.parametrize("size", [8, 12, 32, 50, 64, 100, 128, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_sizes(size: int, dtype: torch.dtype) -> None:
    assert_as_accurate_as_reference(
        make_inputs([40, 9], 2, size, magnitude=0.5), dtype, causal=False
    )
    assert_as_accurate_as_reference(make_inputs([40, 9], 2, 16, size, with_key=True), dtype)


@pytest.mark.parametrize("heads", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("sum_heads", [False, True])
def test_heads(heads: int, sum_heads: bool) -> None:
    inputs = make_inputs([50, 20], heads)
    assert_as_accurate_as_reference(inputs, torch.float32, sum_heads=sum_heads)


@pytest.mark.parametrize("sum_heads", [False, True])
@pytest.mark.parametrize("heads", [1, 4])
def test_heads_that_share_a_rate(heads: int, sum_heads: bool) -> None:
    inputs = make_inputs([50, 20], heads)
    shared = Inputs(**{**vars(inputs), "decay_rate": inputs.decay_rate[:1]})
    assert_as_accurate_as_reference(shared, torch.float32, sum_heads=sum_heads, window=9.0)
    assert_as_accurate_as_reference(
        shared, torch.float32, sum_heads=sum_heads, window=torch.tensor([9.0]), dropout=0.5, seed=1
    )


@pytest.mark.parametrize("size", [1, 16])
def test_heads_of_their_own_scores_that_share_a_rate(size: int) -> None:
    inputs = make_inputs([50, 20], 2, size, head_scores=True)
    shared = Inputs(**{**vars(inputs), "decay_rate": inputs.decay_rate[:1]})
    assert_as_accurate_as_reference(shared, torch.float32)


@pytest.mark.parametrize("window", [[4.0, 30.0], [7.0]], ids=str)
@pytest.mark.parametrize("rates", [1, 2])
def test_windows_of_heads(window: list[float], rates: int) -> None:
    inputs = make_inputs([50, 20], 2)
    inputs = Inputs(**{**vars(inputs), "decay_rate": inputs.decay_rate[:rates]})
    assert_as_accurate_as_reference(inputs, torch.float32, window=torch.tensor(window))


def test_ragged_batch_with_empty_sequences() -> None:
    inputs = make_inputs([0, 5, 0, 130, 1, 1, 48, 2, 0, 96, 97, 0])
    assert_as_accurate_as_reference(inputs, torch.float32)
    assert_as_accurate_as_reference(inputs, torch.float32, causal=False, mask_self=True)


def test_no_tokens() -> None:
    for lengths in ([], [0], [0, 0]):
        result = make_inputs(lengths).run("fused")
        assert result["output"].shape == (0, 2, 16)
        assert (result["decay_rate"] == 0).all()


YEARS = 100 * 365 * DAY
GAPS = {
    "equal": lambda u: torch.zeros_like(u),
    # in milliseconds
    "1-ms": lambda u: torch.ones_like(u),
    "100-years": lambda u: torch.full_like(u, YEARS * 1000),
    "1-ms-or-100-years": lambda u: torch.where(u < 0.7, 1, YEARS * 1000),
    "unsorted": lambda u: ((u - 0.5) * DAY).round(),
}


@pytest.mark.parametrize("gap", GAPS.values(), ids=GAPS.keys())
@pytest.mark.parametrize("rate", [0.0, 1e-13, 1e-6, 0.3], ids=str)
@pytest.mark.parametrize("decay", ["multiplicative", "additive"])
@pytest.mark.parametrize("causal", [True, False])
def test_times(gap: object, rate: float, decay: str, causal: bool) -> None:
    inputs = make_inputs([60, 7], gap=gap, rate=rate)
    assert_as_accurate_as_reference(inputs, torch.float32, decay=decay, causal=causal, window=30.0)


def test_float64_times_are_subtracted_before_rounding() -> None:
    inputs = make_inputs([30], rate=0.5, gap=lambda u: torch.ones_like(u))
    seconds = Inputs(**{**vars(inputs), "time": inputs.time.double() + 0.25})
    expected = inputs.run("fused")
    for name, value in seconds.run("fused").items():
        assert torch.equal(value, expected[name]), name


def test_unsorted_positions() -> None:
    inputs = make_inputs([80])
    order = torch.randperm(80, generator=torch.Generator().manual_seed(0))
    shuffled = Inputs(**{**vars(inputs), "position": inputs.position[order]})
    assert_as_accurate_as_reference(shuffled, torch.float32, window=8.0, causal=False)


@pytest.mark.parametrize("magnitude", [0.0, 4.0, 30.0])
@pytest.mark.parametrize("decay", ["multiplicative", "additive"])
def test_zero_and_large_scores(magnitude: float, decay: str) -> None:
    inputs = [make_inputs([70], magnitude=magnitude, with_key=True, seed=s) for s in range(6)]
    assert_as_accurate_as_reference(inputs, torch.float64, decay=decay)
    assert_as_accurate_as_reference(inputs, torch.float32, decay=decay, causal=False)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_huge_scores_pick_one_key(dtype: torch.dtype) -> None:
    inputs = make_inputs([70], magnitude=1e4, with_key=True, rate=0.0).to(dtype)
    scores = inputs.query.double() @ inputs.key.double().T
    best = scores.masked_fill(~torch.ones(70, 70, dtype=torch.bool).tril(), -torch.inf).argmax(1)
    result = inputs.run("fused")
    assert torch.equal(result["output"], inputs.value[best])
    assert all(value.isfinite().all() for value in result.values())


@pytest.mark.parametrize("name", ["query", "value", "decay_rate"])
def test_nan_propagates(name: str) -> None:
    inputs = make_inputs([20]).to(torch.float32)
    broken = Inputs(**{**vars(inputs), name: getattr(inputs, name) * torch.nan})
    result = broken.run("fused")
    assert result["output"].isnan()[1:].all() and result["query"].isnan()[1:].all()


def test_token_without_keys_gets_zeros() -> None:
    inputs = make_inputs([1, 4, 1]).to(torch.float32)
    result = inputs.run("fused", mask_self=True)
    blind = [0, 1, 5]  # the first token of each sequence
    assert (result["output"][blind] == 0).all()
    assert (result["output"][2:5] != 0).all()
    assert (result["query"][[0, 5]] == 0).all() and (result["value"][[0, 4, 5]] == 0).all()


@pytest.mark.parametrize(
    "layout",
    [
        lambda x: x.transpose(0, 2).contiguous().transpose(0, 2),
        lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
        lambda x: torch.stack([x, x], -1)[..., 0],
    ],
    ids=["tokens-last", "heads-last", "every-other"],
)
def test_inputs_that_are_not_contiguous(layout: Callable[[Tensor], Tensor]) -> None:
    inputs = make_inputs([40, 11], 2, 16, head_scores=True, with_key=True).to(torch.float32)
    expected = inputs.run("fused")
    pair = torch.stack([inputs.query, inputs.key], 1)  # [T, 2, H, D]
    strided = Inputs(
        **{
            **vars(inputs),
            "query": pair[:, 0],
            "key": pair[:, 1],
            "value": layout(inputs.value),
            "time": torch.stack([inputs.time, inputs.time], 1)[:, 0],
            "upstream": layout(inputs.upstream),
        }
    )
    for name, value in strided.run("fused").items():
        assert torch.equal(value, expected[name]), name


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.integers(0, 90), min_size=1, max_size=5),
    heads=st.integers(1, 4),
    size=st.integers(1, 40),
    value_size=st.integers(1, 40),
    head_scores=st.booleans(),
    with_key=st.booleans(),
    causal=st.booleans(),
    mask_self=st.booleans(),
    sum_heads=st.booleans(),
    decay=st.sampled_from(["multiplicative", "additive"]),
    window=st.sampled_from([0.5, 7.0, 300.0, float("inf")]),
    dropout=st.sampled_from([0.0, 0.5]),
    seed=st.integers(0, 2**31),
)
def test_any_shape(
    lengths: list[int],
    heads: int,
    size: int,
    value_size: int,
    head_scores: bool,
    with_key: bool,
    seed: int,
    **options: object,
) -> None:
    inputs = make_inputs(
        lengths, heads, size, value_size, head_scores=head_scores, with_key=with_key, seed=seed
    )
    assert_as_accurate_as_reference(inputs, torch.float64, seed=seed, **options)
