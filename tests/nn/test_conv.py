from __future__ import annotations

import numpy as np
import pytest
import torch

from emorec.nn.aggregate import adjacencies
from emorec.nn.conv import GATConv, KindLinear, SAGEConv
from tests.nn.test_aggregate import NUM_KINDS, edge_lists, graph_of, slow_attend, slow_mean

SIZE = 4
# Items 0 to 3 and three users; kind 1 has no events, item 2 neither.
EVENTS = [(0, 0, 0), (0, 1, 0), (0, 1, 0), (2, 3, 0), (2, 3, 3), (1, 3, 2), (0, 0, 3)]
KIND_OF_NODE = [0, 0, 2, 3, 3]


@pytest.fixture(params=["dgl", "torch"])
def edges(request):
    if request.param == "dgl":
        pytest.importorskip("dgl")
    return adjacencies(graph_of(EVENTS, 4, 3), request.param)


SIZES = graph_of(EVENTS, 4, 3).sizes


def vectors():
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(n, SIZE, generator=generator) for n in (4, len(KIND_OF_NODE)))


def numbers(parameter):
    return parameter.detach().double()


def slow_project(weight, vectors):
    """``W x`` of each vector, for the weights of its own kind."""
    rows = [w.numpy() @ x.double().numpy() for w, x in zip(weight, vectors, strict=True)]
    return torch.from_numpy(np.array(rows))


def per_node(weight):
    return [numbers(weight)[kind] for kind in KIND_OF_NODE]


def per_pair(weight):
    return [numbers(weight)[kind] for _ in range(4) for kind in range(NUM_KINDS)]


def of_pairs(items):
    return items.repeat_interleave(NUM_KINDS, 0)


class TestSAGE:
    def test_to_nodes(self, edges):
        conv = SAGEConv(NUM_KINDS, SIZE)
        items, nodes = vectors()
        sums, maps = conv.to_nodes(edges[0], items)
        expected = slow_mean(edge_lists(EVENTS)[0], items, len(nodes))
        np.testing.assert_allclose(sums / edges[0].total_weight[:, None], expected, rtol=1e-5)
        assert torch.equal(maps, conv.project.view(NUM_KINDS, 1, SIZE, SIZE))

    def test_to_items(self, edges):
        conv = SAGEConv(NUM_KINDS, SIZE)
        _, nodes = vectors()
        sums, maps = conv.to_items(edges[1], nodes)
        expected = slow_mean(edge_lists(EVENTS)[1], nodes, 4 * NUM_KINDS)
        np.testing.assert_allclose(sums / edges[1].total_weight[:, None], expected, rtol=1e-5)
        assert torch.equal(maps, conv.project.view(1, NUM_KINDS, SIZE, SIZE))

    def test_only_weights_and_no_bias(self):
        assert [name for name, _ in SAGEConv(1, SIZE).named_parameters()] == ["project"]


@pytest.mark.parametrize("num_heads", [1, 2])
class TestGAT:
    def source_weight(self, conv):
        """``a W``, so that ``<a, W h> = <a W, h>``."""
        return torch.einsum("rhn,rhnd->rhd", conv.attend_source, conv.project)

    def test_to_nodes(self, edges, num_heads):
        conv = GATConv(NUM_KINDS, SIZE, num_heads)
        items, nodes = vectors()
        left = slow_project(per_pair(self.source_weight(conv)), of_pairs(items))
        right = slow_project(per_node(conv.attend_target), nodes)
        values = slow_project(per_pair(conv.project), of_pairs(items))
        expected = slow_attend(edge_lists(EVENTS)[0], values, left, right).reshape(-1, SIZE)
        found = conv.to_nodes(edges[0], items, nodes, SIZES)
        np.testing.assert_allclose(found.detach(), expected, rtol=1e-4, atol=1e-5)

    def test_to_items_adds_kinds(self, edges, num_heads):
        conv = GATConv(NUM_KINDS, SIZE, num_heads)
        items, nodes = vectors()
        left = slow_project(per_node(self.source_weight(conv)), nodes)
        right = slow_project(per_pair(conv.attend_target), of_pairs(items))
        values = slow_project(per_node(conv.project), nodes)
        parts = slow_attend(edge_lists(EVENTS)[1], values, left, right)
        expected = parts.reshape(4, NUM_KINDS, SIZE).sum(1)
        found = conv.to_items(edges[1], items, nodes, SIZES).detach()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        assert found[2].tolist() == [0] * SIZE

    def test_every_parameter_of_a_kind_with_choice_learns(self, edges, num_heads):
        conv = GATConv(NUM_KINDS, SIZE, num_heads)
        items, nodes = vectors()
        items[1] = -items[0]  # logits on both sides of the leaky ReLU's bend
        with torch.no_grad():
            conv.attend_target.mul_(0.01)
        conv.to_nodes(edges[0], items, nodes, SIZES).square().sum().backward()
        for name, parameter in conv.named_parameters():
            assert parameter.grad[0].abs().sum() > 0, name  # user 0 liked two items
            assert parameter.grad[1].abs().sum() == 0, name  # nobody did anything of this kind
            is_choice = name != "project"  # attention over one neighbour is 1
            assert (parameter.grad[2].abs().sum() < 1e-6) == is_choice, name


def test_heads_must_divide_the_size():
    with pytest.raises(ValueError, match="embedding size 10 is not a multiple of 3 heads"):
        GATConv(1, 10, 3)


@pytest.mark.parametrize("parameter", ["weight", "bias"])
def test_linear_maps_start_as_those_of_pytorch(parameter):
    start = getattr(KindLinear(3, 64, bias=True), parameter)
    assert 0.9 / 8 < start.abs().max() <= 1 / 8
