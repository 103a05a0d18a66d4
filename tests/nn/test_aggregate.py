from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from emorec.data.graph import FeedbackGraph
from emorec.nn.aggregate import adjacencies

pytest.importorskip("dgl")

RELATION = ("item", "interacts", "user")
BACKENDS = ["dgl", "torch"]


def graph_of(edges, num_sources, num_targets):
    """A graph of one relation from items to users."""
    source, target = np.array(edges, dtype=np.int64).reshape(-1, 2).T
    return FeedbackGraph(
        users=torch.arange(num_targets),
        num_items=num_sources,
        node_user={"user": torch.arange(num_targets)},
        edges={RELATION: (torch.from_numpy(source.copy()), torch.from_numpy(target.copy()))},
        time={RELATION: torch.zeros(len(source), dtype=torch.int64)},
    )


def adjacency_of(edges, num_sources, num_targets, backend):
    return adjacencies(graph_of(edges, num_sources, num_targets), backend)[RELATION]


@st.composite
def graphs(draw):
    """Sizes and edges: none, isolated nodes, one node, duplicates all occur."""
    num_sources, num_targets = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    pair = st.tuples(st.integers(0, num_sources - 1), st.integers(0, num_targets - 1))
    return draw(st.lists(pair, max_size=15)), num_sources, num_targets


def random_inputs(num_sources, num_targets, num_heads, seed):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(num_sources, num_heads, 3), (num_sources, num_heads), (num_targets, num_heads)]
    return [
        torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)
        for shape in shapes
    ]


def slow_attend(edges, x, left, right):
    """The docstring's formula, edge by edge, in NumPy."""
    x, left, right = (tensor.detach().numpy() for tensor in (x, left, right))
    result = np.zeros((len(right), *x.shape[1:]))
    for v in range(len(right)):
        neighbours = [u for u, target in edges if target == v]
        for h in range(x.shape[1]):
            if neighbours:
                logits = np.array([left[u, h] + right[v, h] for u in neighbours])
                logits = np.where(logits > 0, logits, 0.2 * logits)
                weights = np.exp(logits) / np.exp(logits).sum()
                result[v, h] = sum(w * x[u, h] for w, u in zip(weights, neighbours, strict=True))
    return result


@pytest.mark.parametrize("backend", BACKENDS)
class TestByHand:
    # Node 0 has items 0, 1 and 1 again; node 1 has nothing; node 2 has item 2.
    EDGES = [(0, 0), (1, 0), (1, 0), (2, 2)]

    def test_mean(self, backend):
        adjacency = adjacency_of(self.EDGES, 3, 3, backend)
        x = torch.tensor([[0.0, 6.0], [3.0, 0.0], [5.0, 7.0]])
        assert adjacency.mean(x).tolist() == [[2, 2], [0, 0], [5, 7]]
        assert adjacency.in_degree.tolist() == [3, 0, 1]

    def test_attend(self, backend):
        adjacency = adjacency_of(self.EDGES, 3, 3, backend)
        # Logits at node 0: log 2 from item 0, 0 twice from item 1: weights 1/2, 1/4, 1/4.
        left = torch.tensor([[np.log(2.0)], [0.0], [9.0]], dtype=torch.float64)
        x = torch.tensor([[[4.0]], [[8.0]], [[5.0]]], dtype=torch.float64)
        found = adjacency.attend(x, left, torch.zeros(3, 1, dtype=torch.float64))
        assert found.flatten().tolist() == pytest.approx([6, 0, 5])

    def test_negative_logits_are_leaky(self, backend):
        adjacency = adjacency_of(self.EDGES, 3, 3, backend)
        # -5 log 2 leaks to -log 2: weights 1/5, 2/5, 2/5.
        left = torch.tensor([[-5 * np.log(2.0)], [0.0], [0.0]], dtype=torch.float64)
        x = torch.tensor([[[10.0]], [[5.0]], [[0.0]]], dtype=torch.float64)
        found = adjacency.attend(x, left, torch.zeros(3, 1, dtype=torch.float64))
        assert found[0].item() == pytest.approx(6)

    def test_relation_without_edges_and_without_nodes(self, backend):
        assert adjacency_of([], 2, 3, backend).mean(torch.ones(2, 4)).tolist() == [[0] * 4] * 3
        assert adjacency_of([], 2, 0, backend).mean(torch.ones(2, 4)).shape == (0, 4)
        attended = adjacency_of([], 0, 3, backend).attend(
            torch.ones(0, 2, 4), torch.ones(0, 2), torch.ones(3, 2)
        )
        assert attended.shape == (3, 2, 4)
        assert attended.abs().sum() == 0

    def test_large_logits_do_not_overflow(self, backend):
        adjacency = adjacency_of(self.EDGES, 3, 3, backend)
        x = torch.tensor([[[1.0]], [[2.0]], [[3.0]]], requires_grad=True)
        left = torch.tensor([[1e4], [-1e4], [1e30]], requires_grad=True)
        right = torch.tensor([[1e4], [0.0], [0.0]], requires_grad=True)
        found = adjacency.attend(x, left, right)
        assert found.flatten().tolist() == [1, 0, 3]
        found.sum().backward()
        for tensor in (x, left, right):
            assert tensor.grad is None or torch.isfinite(tensor.grad).all()

    @pytest.mark.parametrize("edges", [EDGES, [], [(0, 0)], [(0, 1), (0, 0), (2, 1), (0, 1)]])
    def test_gradcheck(self, backend, edges):
        adjacency = adjacency_of(edges, 3, 3, backend)
        x, left, right = random_inputs(3, 3, 2, seed=0)
        assert torch.autograd.gradcheck(adjacency.mean, (x.detach()[:, 0].requires_grad_(),))
        assert torch.autograd.gradcheck(adjacency.attend, (x, left, right))


@settings(max_examples=60, deadline=None)
@given(graphs(), st.integers(1, 3), st.integers(0, 10**6))
def test_backends_agree_with_the_formula_and_each_other(graph, num_heads, seed):
    edges, num_sources, num_targets = graph
    inputs = random_inputs(num_sources, num_targets, num_heads, seed)
    upstream = torch.randn(num_targets, num_heads, 3, dtype=torch.float64)
    gradients = {}
    for backend in BACKENDS:
        adjacency = adjacency_of(edges, num_sources, num_targets, backend)
        attended = adjacency.attend(*inputs)
        np.testing.assert_allclose(
            attended.detach(), slow_attend(edges, *inputs), rtol=1e-12, atol=1e-12
        )
        total = (attended * upstream).sum() + (adjacency.mean(inputs[0][:, 0]) ** 2).sum()
        found = torch.autograd.grad(total, inputs, allow_unused=True, materialize_grads=True)
        gradients[backend] = found
    for ours, theirs in zip(*gradients.values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_order_of_edges_does_not_matter(backend):
    rng = np.random.default_rng(0)
    edges = rng.integers([6, 4], size=(30, 2))
    inputs = random_inputs(6, 4, 2, seed=1)
    first = adjacency_of(edges, 6, 4, backend).attend(*inputs)
    second = adjacency_of(rng.permutation(edges), 6, 4, backend).attend(*inputs)
    torch.testing.assert_close(first, second)


def test_input_need_not_be_contiguous():
    x = torch.randn(2, 5, dtype=torch.float64).T.requires_grad_()  # [5, 2], strided
    for backend in BACKENDS:
        mean = adjacency_of([(4, 0), (1, 0)], 5, 1, backend).mean
        torch.testing.assert_close(mean(x)[0], (x[4] + x[1]) / 2)
        assert torch.autograd.gradcheck(mean, (x,))


def test_unknown_backend():
    with pytest.raises(ValueError, match="'dgl' or 'torch', got 'jax'"):
        adjacencies(graph_of([], 1, 1), "jax")  # type: ignore[arg-type]
