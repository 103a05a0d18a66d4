"""Operators on any layout in memory and any size of numbers: the compiled ones as the references.

Sizes and options are drawn in `tests.ops`.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from emorec.ops.graph_attention import graph_attention
from emorec.ops.hawkes_attention import hawkes_attention
from emorec.ops.kind_product import kind_product
from emorec.ops.linear import add_linear, norm_linear
from emorec.ops.node_update import node_update
from emorec.ops.segments import segment_sum, sum_bags
from emorec.ops.softmax_loss import softmax_loss
from tests.fuzz.amount import amount
from tests.ops.hawkes_inputs import make_inputs
from tests.ops.operators import needs_library
from tests.ops.test_graph_attention import inputs as graph_inputs
from tests.ops.test_graph_attention import random_edges
from tests.ops.test_linear import add_inputs, norm_inputs
from tests.ops.test_node_update import LEARNED, OPTIONAL
from tests.ops.test_node_update import inputs as node_inputs
from tests.ops.test_softmax_loss import inputs as softmax_inputs

LAYOUTS = ("plain", "transposed", "every other", "reversed rows", "one row", "offset")
MAGNITUDES = (0.0, 1e-310, 1e-300, 1e-40, 1e-3, 1.0, 30.0, 1e6)
BROKEN = (None, None, math.nan, math.inf, -math.inf)

layouts = st.sampled_from(LAYOUTS)
magnitudes = st.sampled_from(MAGNITUDES)
seeds = st.integers(0, 10**6)


def laid_out(tensor: torch.Tensor, layout: str) -> torch.Tensor:
    """The same values (or those of the first row in all rows) in another layout."""
    tensor = tensor.detach()
    if layout == "transposed":
        return tensor.movedim(0, -1).contiguous().movedim(-1, 0)
    if layout == "every other":
        wide = torch.full((*tensor.shape, 2), math.nan, dtype=tensor.dtype)
        wide[..., 0] = tensor
        return wide[..., 0]
    if layout == "reversed rows":
        return tensor.flip(0)[torch.arange(len(tensor)).flip(0)]
    if layout == "one row" and len(tensor):
        return tensor[:1].expand(tensor.shape)
    if layout == "offset":
        return torch.cat([tensor.new_full((1, *tensor.shape[1:]), math.nan), tensor])[1:]
    return tensor


def gradients(function, tensors):
    """The output and every gradient; a view stays a view."""
    leaves = [tensor.requires_grad_() for tensor in tensors]
    output = function(*leaves)
    upstream = torch.arange(output.numel()).sin().to(output.dtype).view_as(output)
    return [output.detach(), *torch.autograd.grad(output, leaves, upstream)]


def assert_same(function, tensors, magnitude):
    """The compiled operator against the reference, for equal values in both.

    What cancels is as exact as what it cancels from, and denormal numbers may become 0.
    """
    found = gradients(lambda *each: function(*each, "fused"), tensors)
    plain = [each.detach().clone(memory_format=torch.contiguous_format) for each in tensors]
    expected = gradients(lambda *each: function(*each, "reference"), plain)
    for ours, theirs in zip(found, expected, strict=True):
        finite = theirs[theirs.isfinite()].abs()
        scale = max(magnitude, finite.max().item() if finite.numel() else 0.0, 1e-280)
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9 * scale, equal_nan=True)


@needs_library
@amount(60)
@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 15), st.integers(1, 3),
       st.integers(1, 5), st.tuples(layouts, layouts, layouts), magnitudes, seeds)  # fmt: skip
def test_graph_attention(sources, targets, number, heads, size, layout, magnitude, seed):
    edges = random_edges(sources, targets, number if sources and targets else 0, seed)
    tensors = [
        laid_out(each.detach() * magnitude, own)
        for each, own in zip(graph_inputs(sources, targets, heads, size, seed=seed), layout,
                             strict=True)
    ]  # fmt: skip
    assert_same(lambda *each: graph_attention(*each[:3], *edges, each[3]), tensors, magnitude)


@needs_library
@amount(60)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=3), st.integers(1, 2),
       st.sets(st.sampled_from(OPTIONAL)), st.lists(layouts, min_size=7, max_size=7), magnitudes,
       seeds)  # fmt: skip
def test_node_update(sizes, terms, given_, layout, magnitude, seed):
    arguments = node_inputs(sizes, terms, 16, sorted(given_), seed=seed)
    names = [name for name in LEARNED if arguments[name] is not None]
    tensors = [laid_out(arguments[name].detach() * magnitude, own)
               for name, own in zip(names, layout, strict=False)]  # fmt: skip

    def run(*each):
        return node_update(**{**arguments, **dict(zip(names, each[:-1], strict=True))},
                           backend=each[-1])  # fmt: skip

    # The compiled ELU is exact to a rounding of 1, not of its own value.
    assert_same(run, tensors, max(magnitude, 1e-4))


@needs_library
@amount(60)
@given(st.booleans(), st.integers(0, 60), st.sampled_from([16, 48]), st.integers(0, 255),
       st.lists(layouts, min_size=5, max_size=5), magnitudes, seeds)  # fmt: skip
def test_linear(is_norm, rows, size, threshold, layout, magnitude, seed):
    arguments = (norm_inputs if is_norm else add_inputs)(rows, size, 32, seed=seed)
    tensors = [laid_out(each * (magnitude if name == "x" else 1), own)
               for (name, each), own in zip(arguments.items(), layout, strict=False)]  # fmt: skip

    def run(*each):
        torch.manual_seed(seed)
        options = {"threshold": threshold, "backend": each[-1]}
        if is_norm:
            return norm_linear(*each[:-1], activation="relu", **options)
        return add_linear(*each[:-1], **options)

    assert_same(run, tensors, max(magnitude, 1.0))


@needs_library
@amount(60)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 9), st.integers(1, 3),
       st.tuples(layouts, layouts), magnitudes, seeds)  # fmt: skip
def test_softmax_loss(states, items, size, targets, layout, magnitude, seed):
    state, item, target, wanted = softmax_inputs(states, items, size, targets)
    tensors = [laid_out(each.detach() * magnitude, own)
               for each, own in zip((state, item), layout, strict=True)]  # fmt: skip
    assert_same(
        lambda *each: softmax_loss(each[0], each[1], target, wanted, each[2]), tensors, magnitude
    )


@needs_library
@amount(60)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=3), st.integers(1, 3),
       st.tuples(layouts, layouts, layouts), magnitudes, st.booleans(),
       st.sampled_from(["additive", "multiplicative"]), seeds)  # fmt: skip
def test_hawkes_attention(lengths, heads, layout, magnitude, causal, decay, seed):
    found = make_inputs(lengths, heads, 8, with_key=True, seed=seed)
    tensors = [laid_out(each * factor, own) for each, factor, own in
               zip((found.query, found.key, found.value), (magnitude, 1, magnitude), layout,
                   strict=True)]  # fmt: skip

    def run(query, key, value, backend):
        return hawkes_attention(
            query, key, value, found.time, found.position, found.cu_seqlens, found.decay_rate,
            causal=causal, decay=decay, backend=backend,
        )  # fmt: skip

    assert_same(run, tensors, magnitude)


def broken_rows(number, value, seed):
    rng = np.random.default_rng(seed)
    return int(rng.integers(number)) if value is not None else -1


@amount(40)
@given(st.sampled_from(["reference", "fused"]), st.sampled_from(BROKEN), seeds)
def test_what_is_not_finite_stays_with_its_neighbours(backend, value, seed):
    if backend == "fused" and needs_library.args[0]:
        return
    edges = random_edges(6, 5, 12, seed)
    tensors = [each.detach() for each in graph_inputs(6, 5, 2, 3, seed=seed)]
    expected = graph_attention(*tensors, *edges, backend)
    row = broken_rows(6, value, seed)
    if value is not None:
        tensors[0][row] = value
    found = graph_attention(*tensors, *edges, backend)
    target_of = torch.repeat_interleave(edges[0].diff())
    reached = torch.zeros(5, dtype=torch.bool)
    reached[target_of[edges[1] == row]] = True
    assert torch.equal(found[~reached], expected[~reached])
    assert not found[reached].isfinite().any()

    arguments = node_inputs((3, 0, 4), 1, 16, ("own", "bias"), seed=seed)
    expected = node_update(**arguments, backend=backend)
    row = broken_rows(7, value, seed)
    if value is not None:
        arguments["own"].data[row] = value
    found = node_update(**arguments, backend=backend)
    others = torch.arange(7) != row
    assert torch.equal(found[others], expected[others])
    assert row < 0 or found[row].isnan().all()


@amount(60)
@given(st.lists(st.integers(0, 4), max_size=5), st.integers(1, 4), st.booleans(), layouts, seeds)
def test_sums_over_segments(counts, size, has_weight, layout, seed):
    rng = np.random.default_rng(seed)
    number = sum(counts)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    x, values = rng.normal(size=(3, size)), rng.normal(size=number)
    weight, index = rng.normal(size=number), rng.integers(3, size=number)
    found = segment_sum(torch.from_numpy(values), torch.from_numpy(offsets))
    expected = [values[a:b].sum() for a, b in zip(offsets, offsets[1:], strict=False)]
    np.testing.assert_allclose(found, np.reshape(expected, -1), atol=1e-12)

    x = laid_out(torch.from_numpy(x), layout)
    bags = sum_bags(torch.from_numpy(index), x, torch.from_numpy(offsets),
                    torch.from_numpy(weight) if has_weight else None)  # fmt: skip
    rows = x.numpy()[index] * (weight[:, None] if has_weight else 1)
    expected = [rows[a:b].sum(0) for a, b in zip(offsets, offsets[1:], strict=False)]
    np.testing.assert_allclose(bags, np.reshape(expected, (-1, size)), atol=1e-12)


@amount(40)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=4), st.integers(1, 5), st.integers(1, 5),
       layouts, layouts, seeds)  # fmt: skip
def test_product_by_kind(sizes, size, out, layout, other, seed):
    generator = torch.Generator().manual_seed(seed)
    x = laid_out(torch.randn(sum(sizes), size, generator=generator), layout)
    weight = laid_out(torch.randn(len(sizes), out, size, generator=generator), other)
    expected = torch.cat([rows @ w.T for rows, w in zip(x.split(sizes), weight, strict=True)])
    torch.testing.assert_close(kind_product(x, weight, sizes), expected)


@needs_library
@pytest.mark.parametrize("magnitude", [1e-42, 1e15])
def test_float32_of_any_size(magnitude):
    """Neither does what is denormal become something else, nor what is large infinite."""
    state, items, target, wanted = softmax_inputs(9, 20, 8, dtype=torch.float32)
    state, items = state.detach() * magnitude, items.detach()
    fused, reference = (
        softmax_loss(state, items, target, wanted, backend) for backend in ("fused", "reference")
    )
    torch.testing.assert_close(fused, reference, rtol=1e-5, atol=1e-6)
