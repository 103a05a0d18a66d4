from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from emorec.ops import library
from emorec.ops.graph_attention import graph_attention
from tests.ops.operators import needs_library

Edges = tuple[Tensor, Tensor, Tensor, Tensor]


def sorted_edges(pairs: np.ndarray, num_sources: int, num_targets: int) -> Edges:
    """Edges (source, target) ``[E, 2]`` in both orders: offsets, source, source_offsets, target."""
    result = []
    for own, other, count in ((1, 0, num_targets), (0, 1, num_sources)):
        order = np.argsort(pairs[:, own], kind="stable")
        counts = np.bincount(pairs[:, own], minlength=count)
        offsets = np.concatenate([[0], np.cumsum(counts)])
        result += [
            torch.from_numpy(each.astype(np.int32)) for each in (offsets, pairs[order, other])
        ]
    return tuple(result)


def random_edges(num_sources: int, num_targets: int, num_edges: int, seed: int = 0) -> Edges:
    rng = np.random.default_rng(seed)
    ends = [rng.integers(n, size=num_edges) if n else [] for n in (num_sources, num_targets)]
    return sorted_edges(np.array(ends, dtype=np.int64).T, num_sources, num_targets)


def inputs(num_sources=5, num_targets=4, num_heads=2, size=3, dtype=torch.float64, seed=0):
    """Values and both parts of the logits."""
    generator = torch.Generator().manual_seed(seed)
    shapes = (num_sources, num_heads, size), (num_sources, num_heads), (num_targets, num_heads)
    return [
        torch.randn(*shape, generator=generator, dtype=dtype, requires_grad=True)
        for shape in shapes
    ]


def by_formula(x: Tensor, left: Tensor, right: Tensor, edges: Edges) -> Tensor:
    """The same from the weights of all pairs of a source and a target, one head after another."""
    offsets, source = edges[0].long(), edges[1].long()
    target = torch.repeat_interleave(offsets.diff())
    count = x.new_zeros(len(right), len(left))  # edges between two nodes
    count.index_put_((target, source), x.new_ones(len(source)), accumulate=True)
    heads = []
    for h in range(x.shape[1]):
        logit = F.leaky_relu(left[:, h] + right[:, h, None], 0.2)  # [V, U]
        logit = torch.where(count > 0, logit + count.clamp(min=1).log(), -1e9)
        heads.append(torch.where(count > 0, torch.softmax(logit, dim=1), 0) @ x[:, h])
    return torch.stack(heads, dim=1)


def with_gradients(function: Callable[..., Tensor], *arguments: Tensor) -> list[Tensor]:
    output = function(*arguments)
    upstream = torch.arange(output.numel()).sin().to(output.dtype).view_as(output)
    return [output, *torch.autograd.grad(output, arguments, upstream)]


def both(edges: Edges, backend: str, *arguments: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Ours and the dense product, each with its gradients."""
    return (
        with_gradients(lambda *a: graph_attention(*a, *edges, backend), *arguments),
        with_gradients(lambda *a: by_formula(*a, edges), *arguments),
    )


# Target 0 has sources 0, 1 and 1 again; target 1 has none; target 2 has source 2.
BY_HAND = sorted_edges(np.array([[0, 0], [1, 0], [1, 0], [2, 2]]), 3, 3)


def attend_by_hand(x, left, backend, right=(0.0, 0.0, 0.0)):
    columns = (torch.tensor(each, dtype=torch.float64)[:, None] for each in (left, right))
    values = torch.tensor(x, dtype=torch.float64).view(3, 1, 1)
    return graph_attention(values, *columns, *BY_HAND, backend).flatten().tolist()


def test_by_hand(backend):
    # Logits at target 0: log 2 from source 0, 0 twice from source 1: weights 1/2, 1/4, 1/4.
    found = attend_by_hand([4, 8, 5], [math.log(2), 0, 9], backend)
    assert found == pytest.approx([6, 0, 5])


def test_negative_logits_are_leaky(backend):
    # -5 log 2 leaks to -log 2: weights 1/5, 2/5, 2/5.
    assert attend_by_hand([10, 5, 0], [-5 * math.log(2), 0, 0], backend)[0] == pytest.approx(6)


def test_large_logits_do_not_overflow(backend):
    x = torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1).requires_grad_()
    left = torch.tensor([[1e4], [-1e4], [1e30]], requires_grad=True)
    right = torch.tensor([[1e4], [0.0], [0.0]], requires_grad=True)
    found = graph_attention(x, left, right, *BY_HAND, backend)
    assert found.flatten().tolist() == [1, 0, 3]
    found.sum().backward()
    assert all(torch.isfinite(tensor.grad).all() for tensor in (x, left, right))


def test_logits_far_below_the_largest_of_other_targets(backend):
    # Their weights must come from their own target's largest logit, or they would all be 0.
    found = attend_by_hand([4, 8, 5], [-2000, -2000, 3000], backend)
    assert found == pytest.approx([(4 + 8 + 8) / 3, 0, 5])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 6), st.integers(0, 6), st.integers(0, 25), st.integers(1, 3), st.data())
def test_any_small_graph(num_sources, num_targets, num_edges, num_heads, data):
    seed, size = data.draw(st.integers(0, 10**6)), data.draw(st.integers(1, 9))
    if not (num_sources and num_targets):
        num_edges = 0
    edges = random_edges(num_sources, num_targets, num_edges, seed)
    for backend in ("reference", "fused") if library.problem("cpu") is None else ("reference",):
        case = inputs(num_sources, num_targets, num_heads, size, seed=seed)
        torch.testing.assert_close(*both(edges, backend, *case))


# Less than a vector and more than one, heads that share a block and heads with a rest.
@pytest.mark.parametrize("num_heads", [1, 2, 4, 5])
@pytest.mark.parametrize("size", [1, 4, 8, 16, 21, 64])
def test_every_width(backend, num_heads, size):
    edges = random_edges(40, 7, 300)  # some targets have more edges than a tile
    torch.testing.assert_close(*both(edges, backend, *inputs(40, 7, num_heads, size)))


@pytest.mark.parametrize("num_edges", [63, 64, 65, 200])
def test_tiles_of_one_node(backend, num_edges):
    for pairs in (
        np.zeros((num_edges, 2)),
        np.stack([np.arange(num_edges), np.zeros(num_edges)], 1),
    ):
        num_sources = int(pairs[:, 0].max()) + 1
        edges = sorted_edges(pairs.astype(np.int64), num_sources, 1)
        x, left, right = inputs(num_sources, 1, 2, 5)
        with torch.no_grad():  # each tile has a larger logit than the one before
            left.copy_(torch.linspace(-30, 90, num_sources)[:, None].expand_as(left))
        torch.testing.assert_close(*both(edges, backend, x, left, right))


def test_gradcheck(backend):
    edges = random_edges(5, 4, 12)
    assert torch.autograd.gradcheck(lambda *a: graph_attention(*a, *edges, backend), inputs())


def test_nan_stays_in_its_rows(backend):
    edges = sorted_edges(np.array([[0, 0], [1, 1]]), 2, 2)
    for broken in range(3):
        case = [each.detach() for each in inputs(2, 2, 1, 3)]
        case[broken][0] = math.nan
        found = graph_attention(*case, *edges, backend)
        assert found[0].isnan().all()
        assert torch.isfinite(found[1]).all()


def test_float32_is_as_accurate_as_a_dense_product(backend):
    edges = random_edges(300, 200, 20_000)
    exact = inputs(300, 200, 4, 16)
    _, wanted = both(edges, "reference", *exact)
    single = [each.detach().float().requires_grad_() for each in exact]
    for own, other, true in zip(*both(edges, backend, *single), wanted, strict=True):
        assert (own - true).abs().max() <= 3 * (other - true).abs().max() + 1e-6 * true.abs().max()


@needs_library
def test_auto_runs_the_reference_for_unsupported_arguments():
    edges = random_edges(5, 4, 12)
    case = [each.detach().bfloat16() for each in inputs()]
    with pytest.raises(RuntimeError, match=r"backend='fused': .* torch.bfloat16 on cpu"):
        graph_attention(*case, *edges, backend="fused")


def test_unknown_backend_raises():
    with pytest.raises(ValueError, match="'reference' or 'fused', got 'fast'"):
        graph_attention(*inputs(), *random_edges(5, 4, 12), backend="fast")


@needs_library
class TestOperator:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    def test_every_instruction_set(self, instruction_set, dtype):
        for num_heads, size in ((1, 40), (2, 20), (4, 16), (9, 5)):
            edges = random_edges(60, 30, 500)
            case = inputs(60, 30, num_heads, size, dtype)
            torch.testing.assert_close(*both(edges, "fused", *case))

    def test_results_do_not_depend_on_the_number_of_threads(self):
        edges = random_edges(4000, 3000, 60_000)
        case = inputs(4000, 3000, 2, 16, torch.float32)
        before = torch.get_num_threads()
        results = []
        try:
            for threads in (1, 2, 4):
                torch.set_num_threads(threads)
                results.append(
                    with_gradients(lambda *a: graph_attention(*a, *edges, "fused"), *case)
                )
        finally:
            torch.set_num_threads(before)
        for other in results[1:]:
            assert all(map(torch.equal, other, results[0]))

    def test_opcheck(self):
        offsets, source, source_offsets, target = random_edges(5, 4, 12)
        case = [each.detach() for each in inputs()]
        forward = torch.ops.emorec.graph_attention_fwd
        torch.library.opcheck(forward, (*case, offsets, source, source_offsets, target, 0.2))
        saved = forward(*case, offsets, source, source_offsets, target, 0.2)
        backward = (torch.ones_like(saved[0]), *case, source_offsets, target, *saved, 0.2)
        torch.library.opcheck(torch.ops.emorec.graph_attention_bwd, backward)

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"x": torch.zeros(5, 2, 3).half()}, "x must be float32 or float64"),
            ({"x": torch.zeros(5, 6)}, r"x must be \[U, H, N\]"),
            ({"left": torch.zeros(5, 3)}, "left must be contiguous, and of the dtype and shape"),
            ({"right": torch.zeros(4, 2)}, "right must be contiguous"),
            ({"offsets": torch.arange(5)}, "offsets must be contiguous"),
            ({"offsets": torch.arange(5, dtype=torch.int32)}, "must rise from 0 to the 12 edges"),
            (
                {"source": torch.full((12,), 5, dtype=torch.int32)},
                "node 5, which is out of range for 5",
            ),
            (
                {"source": torch.full((12,), -1, dtype=torch.int32)},
                "node -1, which is out of range",
            ),
        ],
    )
    def test_invalid_arguments_raise(self, changed, message):
        names = "x", "left", "right", "offsets", "source", "source_offsets", "target"
        given = [each.detach() for each in inputs()] + list(random_edges(5, 4, 12))
        case = dict(zip(names, given, strict=True)) | changed
        with pytest.raises(RuntimeError, match=message):
            torch.ops.emorec.graph_attention_fwd(*case.values(), 0.2)
