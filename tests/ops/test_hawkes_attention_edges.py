"""The fused Hawkes attention at the edges: no tokens, far positions, huge scores, NaN."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from emorec.ops.hawkes_attention import hawkes_attention
from tests.ops.hawkes_inputs import assert_as_accurate_as_reference, make_inputs
from tests.ops.operators import needs_library

pytestmark = needs_library


def rows_with_nan(tensor: Tensor) -> list[int]:
    return tensor.flatten(1).isnan().any(1).nonzero()[:, 0].tolist()


@pytest.mark.parametrize("backend", ["auto", "fused"])
@pytest.mark.parametrize("with_key", [False, True])
def test_no_tokens_from_numpy(backend: str, with_key: bool) -> None:
    # NumPy's arrays without elements have strides of 0.
    query, value = (
        torch.from_numpy(np.zeros(shape, dtype=np.float32)).requires_grad_()
        for shape in ((0, 4), (0, 2, 3))
    )
    assert query.stride(-1) == value.stride(-1) == 0
    whole = torch.from_numpy(np.zeros(0, dtype=np.int64))
    output = hawkes_attention(
        query,
        query if with_key else None,
        value,
        whole,
        whole,
        torch.from_numpy(np.zeros(1, dtype=np.int64)),
        torch.ones(2),
        backend=backend,
    )
    assert output.shape == (0, 2, 3)
    upstream = torch.from_numpy(np.zeros((0, 2, 3), dtype=np.float32))
    grads = torch.autograd.grad(output, [query, value], upstream)
    assert [grad.shape for grad in grads] == [(0, 4), (0, 2, 3)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("start", [2**31 - 20, 2**40, -(2**62)])
def test_positions_beyond_int32(
    instruction_set: str, dtype: torch.dtype, causal: bool, start: int
) -> None:
    inputs = make_inputs([40, 3])
    far = dataclasses.replace(inputs, position=inputs.position + start)
    options = {"causal": causal, "window": 5.0}
    expected = inputs.to(dtype).run("fused", **options)
    for name, value in far.to(dtype).run("fused", **options).items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 0, 2, 1]], ids=["sorted", "unsorted"])
@pytest.mark.parametrize("causal", [True, False])
def test_positions_are_subtracted_before_rounding(
    instruction_set: str, order: list[int], causal: bool
) -> None:
    # In float32 the last three would be one.
    position = torch.tensor([0, 2**30, 2**30 + 1, 2**30 + 3])[order]
    inputs = dataclasses.replace(make_inputs([4]), position=position)
    assert_as_accurate_as_reference(
        inputs, torch.float32, causal=causal, window=2.0, decay="additive"
    )
    window = 2.0**30  # that distances of 2^30 count too
    assert_as_accurate_as_reference(inputs, torch.float32, causal=causal, window=window)


@pytest.mark.parametrize("backend", ["reference", "fused"])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
def test_positions_too_far_apart_raise(backend: str, dtype: torch.dtype) -> None:
    inputs = make_inputs([2, 3])
    lowest = -(2**31)
    position = torch.tensor([lowest, 5, 0, 1, 2**31 - 1], dtype=dtype)
    apart = dataclasses.replace(inputs, position=position)
    with pytest.raises(ValueError, match=r"less than 2\^31 apart, got -2147483648 and 5"):
        apart.run(backend)
    # In two sequences they may be.
    near = dataclasses.replace(inputs, position=position.clone())
    near.position[1] = lowest + 1
    assert near.run(backend)["output"].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("exponent", [1e8, 1e9, 1e10, 1e12, 1e30])
@pytest.mark.parametrize("with_key", [False, True])
def test_huge_exponents_without_self(
    instruction_set: str, dtype: torch.dtype, exponent: float, with_key: bool
) -> None:
    # The nearest key has all the weight, and a score of minus the exponent.
    inputs = make_inputs([40, 1, 2], with_key=with_key).to(dtype)
    options = {"decay": "additive", "mask_self": True, "window": 1 / exponent}
    result, expected = (inputs.run(backend, **options) for backend in ("fused", "reference"))
    nearest = [i - 1 for i in range(1, 40)]
    assert torch.equal(result["output"][1:40], inputs.value[nearest])
    assert torch.equal(result["output"][[0, 40, 41]], torch.zeros(3, 2, 16, dtype=dtype))
    assert torch.equal(result["value"][nearest], inputs.upstream[1:40])
    for name, value in expected.items():
        torch.testing.assert_close(result[name], value, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("magnitude", [1e4, 1e5, 1e7, 1e9])
def test_gradients_of_huge_scores(instruction_set: str, magnitude: float, causal: bool) -> None:
    # exp of the rounding of such scores is beyond float32.
    inputs = make_inputs([70], magnitude=magnitude, with_key=True, rate=0.0).to(torch.float32)
    result, expected = (inputs.run(backend, causal=causal) for backend in ("fused", "reference"))
    for name, value in expected.items():
        if name == "decay_rate":
            continue  # of sums that cancel, times the scores
        torch.testing.assert_close(result[name], value, rtol=1e-6, atol=1e-6, msg=name)


@pytest.mark.parametrize("size", [1, 16, 64])
@pytest.mark.parametrize("magnitude", [30.0, 1e3])
@pytest.mark.parametrize("with_key", [False, True])
def test_rows_with_all_weight_on_one_key_have_no_gradient(
    instruction_set: str, size: int, magnitude: float, with_key: bool
) -> None:
    inputs = make_inputs([400], 2, size, 16, magnitude=magnitude, with_key=with_key, rate=0.0)
    inputs = inputs.to(torch.float32)
    query = inputs.query.double()
    key = query if inputs.key is None else inputs.key.double()
    later = torch.ones(400, 400, dtype=torch.bool).triu(1)
    best, second = (query @ key.T / size**0.5).masked_fill(later, -torch.inf).topk(2).values.T
    inputs.upstream[best - second < 40] = 0  # elsewhere other keys weigh below 1e-17
    assert (inputs.upstream != 0).any(2).any(1).sum() > 20
    exact = inputs.to(torch.float64).run("reference")
    fused, plain = (inputs.run(backend) for backend in ("fused", "reference"))
    for name in ("query", "key") if with_key else ("query",):
        error, of_plain = (float((r[name] - exact[name]).abs().max()) for r in (fused, plain))
        assert error <= 2 * of_plain + 1e-10, name  # not the rounding of c - mean, times keys


CONFINED = {
    "query": {"output": [300], "query": [300]},
    # A key that is not seen gets nothing of NaN.
    "upstream": {"query": [300], "key": list(range(301))},
}


@pytest.mark.parametrize("name", CONFINED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"decay": "additive"},
        {"window": 5.0},
        {"dropout": 0.3, "seed": 1},
        {"window": torch.tensor([5.0, 9.0]), "sum_heads": True},
    ],
    ids=["causal", "additive", "window", "dropout", "sum"],
)
def test_nan_of_one_token_stays_where_the_reference_keeps_it(
    instruction_set: str, name: str, dtype: torch.dtype, options: dict
) -> None:
    inputs = make_inputs([400], with_key=True).to(dtype)
    getattr(inputs, name)[300] = torch.nan
    result, expected = (inputs.run(backend, **options) for backend in ("fused", "reference"))
    for array, rows in CONFINED[name].items():
        assert rows_with_nan(expected[array]) == rows, array
        found = rows_with_nan(result[array])  # keys at a distance may be without
        assert 300 in found and set(found) <= set(rows), array


@pytest.mark.parametrize("name", ["key", "value"])
def test_nan_of_a_far_key_propagates(name: str) -> None:
    # Keys at a distance enter by the sums of their values alone, unless their scores are NaN.
    inputs = make_inputs([700], with_key=True).to(torch.float32)
    getattr(inputs, name)[0, 0] = torch.nan
    output = inputs.run("fused", window=4.0)["output"]
    assert rows_with_nan(output) == list(range(700))
