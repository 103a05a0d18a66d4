from __future__ import annotations

import numpy as np
import pytest
import torch

from emorec.nn.aggregate import adjacencies
from emorec.nn.conv import GATConv, SAGEConv
from tests.nn.test_aggregate import RELATION, graph_of

# Target 0 is reached by sources 0, 1 and 1 again, target 1 by nothing, target 2 by source 3.
EDGES = [(0, 0), (1, 0), (1, 0), (3, 2)]


@pytest.fixture(params=["dgl", "torch"])
def adjacency(request):
    if request.param == "dgl":
        pytest.importorskip("dgl")
    return adjacencies(graph_of(EDGES, 4, 3), request.param)[RELATION]


def vectors(size=4):
    return torch.randn(4, size), torch.randn(3, size)


class TestSAGE:
    def test_formula(self, adjacency):
        conv = SAGEConv(4)
        source, target = vectors()
        h, weight = source.numpy(), conv.project.weight.detach().numpy()
        expected = [weight @ ((h[0] + 2 * h[1]) / 3), np.zeros(4), weight @ h[3]]
        found = conv(adjacency, source, target).detach()
        np.testing.assert_allclose(found, np.array(expected), rtol=1e-5, atol=1e-6)

    def test_only_weights_and_no_bias(self):
        assert [name for name, _ in SAGEConv(4).named_parameters()] == ["project.weight"]


class TestGAT:
    @pytest.mark.parametrize("num_heads", [1, 2])
    def test_formula(self, adjacency, num_heads):
        conv = GATConv(4, num_heads)
        source, target = vectors()
        expected = np.zeros((3, num_heads, 4 // num_heads))
        z = (source @ conv.project.weight.T).detach().view(4, num_heads, -1).numpy()
        a, b = conv.attend_source.detach().numpy(), conv.attend_target.weight.detach().numpy()
        for v in range(3):
            neighbours = [u for u, end in EDGES if end == v]
            for head in range(num_heads if neighbours else 0):
                e = [a[head] @ z[u, head] + b[head] @ target[v].numpy() for u in neighbours]
                weights = np.exp([x if x > 0 else 0.2 * x for x in e])
                weights /= weights.sum()
                expected[v, head] = weights @ z[neighbours, head]
        found = conv(adjacency, source, target).detach()
        np.testing.assert_allclose(found, expected.reshape(3, 4), rtol=1e-5, atol=1e-6)

    def test_a_node_that_is_not_reached_gets_zeros(self, adjacency):
        source, target = vectors()
        assert GATConv(4, 2)(adjacency, source, target)[1].tolist() == [0, 0, 0, 0]

    def test_every_parameter_learns(self, adjacency):
        conv = GATConv(4, 2)
        source, target = vectors()
        conv(adjacency, source, target).square().sum().backward()
        for name, parameter in conv.named_parameters():
            assert parameter.grad.abs().sum() > 0, name

    def test_heads_must_divide_the_size(self):
        with pytest.raises(ValueError, match="embedding size 10 is not a multiple of 3 heads"):
            GATConv(10, 3)
