from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from emorec.data.graph import build_graph, to_dgl
from emorec.data.sequences import EventSequences
from emorec.nn import aggregate
from emorec.nn.aggregate import adjacencies
from tests.small import small_log

pytest.importorskip("dgl")

BACKENDS = ["dgl", "torch"]
NUM_KINDS = 4
DAY = 86400


def graph_of(events, num_items, num_users, feedback_nodes=True, times=None):
    """A graph of events (user, item, kind), a second apart or at the given times."""
    times = range(len(events)) if times is None else times
    rows = [(*event, time) for event, time in zip(events, times, strict=True)]
    sequences = EventSequences.build(small_log(rows, num_users, num_items))
    users = np.arange(num_users)
    return build_graph(
        sequences, users, sequences.lengths, num_items, feedback_nodes=feedback_nodes
    )


def plain(edges, num_items, num_users, times=None):
    """A graph of edges from items to users, without feedback nodes."""
    return graph_of([(user, item, 0) for item, user in edges], num_items, num_users, False, times)


def edge_lists(events):
    """Of every event: the row of a mean, the source of attention and the target, both ways."""
    nodes = {node: place for place, node in enumerate(sorted({(k, u) for u, _, k in events}))}
    into = [(item, item * NUM_KINDS + k, nodes[k, user]) for user, item, k in events]
    return into, [(node, node, pair) for _, pair, node in into]


@st.composite
def graphs(draw):
    """Events and sizes: none, one node, isolated nodes, kinds without events, duplicates occur."""
    num_users, num_items = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    event = st.tuples(
        st.integers(0, num_users - 1), st.integers(0, num_items - 1), st.integers(0, NUM_KINDS - 1)
    )
    return draw(st.lists(event, max_size=20)), num_items, num_users


def random_inputs(rows, sources, targets, num_heads, seed=0):
    """What a mean takes, and the three arguments of attention."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)
        for shape in [
            (rows, 3),
            (sources, num_heads, 3),
            (sources, num_heads),
            (targets, num_heads),
        ]
    ]


def sizes_of(edges):
    """Rows of a mean, sources of attention and targets of an adjacency."""
    return len(edges.row_offsets) - 1, len(edges.source_offsets) - 1, len(edges.offsets) - 1


def mean(edges, x):
    """The mean over in-edges, by weight."""
    return edges.sum(x) / edges.total_weight[:, None]


def slow_mean(edges, x, num_targets, weights=None):
    """The docstring's formula as a product of dense matrices, in NumPy."""
    matrix = np.zeros((num_targets, len(x)))
    for (row, _, target), weight in zip(edges, weights or [1] * len(edges), strict=True):
        matrix[target, row] += weight
    total = matrix.sum(1, keepdims=True)
    return matrix @ x.detach().numpy() / np.where(total > 0, total, 1)


def slow_weights(events, times, half_life):
    """``2^(-age / half_life)`` of every event, by its user's newest."""
    users = [user for user, _, _ in events]
    newest = {
        user: max(t for u, t in zip(users, times, strict=True) if u == user) for user in users
    }
    return [
        0.5 ** ((newest[user] - time) / DAY / half_life)
        for user, time in zip(users, times, strict=True)
    ]


def slow_attend(edges, x, left, right):
    """The docstring's formula, edge by edge, in NumPy."""
    x, left, right = (tensor.detach().numpy() for tensor in (x, left, right))
    result = np.zeros((*right.shape, x.shape[2]))
    for v in range(len(right)):
        own = [source for _, source, target in edges if target == v]
        for h in range(right.shape[1] if own else 0):
            logits = left[own, h] + right[v, h]
            weights = np.exp(np.where(logits > 0, logits, 0.2 * logits))
            result[v, h] = weights @ x[own, h] / weights.sum()
    return result


@pytest.mark.parametrize("backend", BACKENDS)
class TestByHand:
    # User 0 has items 0, 1 and 1 again; user 1 has nothing; user 2 has item 2.
    EDGES = [(0, 0), (1, 0), (1, 0), (2, 2)]

    def into(self, backend):
        return adjacencies(plain(self.EDGES, 3, 3), backend)[0]

    def test_mean(self, backend):
        x = torch.tensor([[0.0, 6.0], [3.0, 0.0], [5.0, 7.0]])
        assert mean(self.into(backend), x).tolist() == [[2, 2], [0, 0], [5, 7]]
        assert self.into(backend).in_degree.tolist() == [3, 0, 1]

    def test_mean_back(self, backend):
        back = adjacencies(plain(self.EDGES, 3, 3), backend)[1]
        x = torch.tensor([[1.0], [2.0], [3.0]])
        assert mean(back, x).tolist() == [[1], [1], [3]]
        assert back.in_degree.tolist() == [1, 2, 1]

    def test_a_kind_has_its_own_logits(self, backend):
        # One user liked item 0 and item 1, and disliked item 0: two nodes.
        into, _ = adjacencies(graph_of([(0, 0, 0), (0, 1, 0), (0, 0, 3)], 2, 1), backend)
        left = torch.zeros(2 * NUM_KINDS, 1)
        left[0] = np.log(3.0)  # of item 0, liked; disliked items keep 0
        x = torch.tensor([4.0, 8.0]).repeat_interleave(NUM_KINDS).view(-1, 1, 1)
        found = into.attend(x, left, torch.zeros(2, 1))
        torch.testing.assert_close(found.flatten(), torch.tensor([5.0, 4.0]))

    def test_without_events_and_without_nodes(self, backend):
        into, back = adjacencies(plain([], 2, 3), backend)
        assert mean(into, torch.ones(2, 4)).tolist() == [[0] * 4] * 3
        assert mean(back, torch.ones(3, 4)).tolist() == [[0] * 4] * 2
        attended = into.attend(torch.ones(2, 2, 4), torch.ones(2, 2), torch.ones(3, 2))
        assert attended.shape == (3, 2, 4)
        assert attended.abs().sum() == 0
        into, back = adjacencies(plain([], 2, 0), backend)
        assert mean(into, torch.ones(2, 4)).shape == (0, 4)
        assert mean(back, torch.ones(0, 4)).tolist() == [[0] * 4] * 2

    @pytest.mark.parametrize("direction", [0, 1])
    @pytest.mark.parametrize(
        "events",
        [[], [(0, 0, 0)], [(0, 1, 0), (0, 0, 3), (1, 1, 0), (1, 1, 0), (2, 1, 0), (1, 0, 2)]],
    )
    def test_gradcheck(self, backend, events, direction):
        edges = adjacencies(graph_of(events, 2, 3), backend)[direction]
        x, *attended = random_inputs(*sizes_of(edges), 2)
        assert torch.autograd.gradcheck(edges.sum, (x,))
        assert torch.autograd.gradcheck(edges.attend, attended)


@pytest.mark.parametrize("backend", BACKENDS)
class TestDecay:
    # User 0 has item 0 and, a day later, item 1 twice; user 1 has item 0; user 2 has nothing.
    EDGES = [(0, 0), (1, 0), (1, 0), (0, 1)]
    TIMES = [0, DAY, DAY, 9 * DAY]

    def edges(self, backend, half_life=1.0):
        return adjacencies(plain(self.EDGES, 3, 3, self.TIMES), backend, half_life)

    def test_by_hand(self, backend):
        into, back = self.edges(backend)
        # User 0's weights are 1/2, 1, 1.
        x = torch.tensor([[0.0, 5.0], [5.0, 0.0], [9.0, 9.0]])
        assert mean(into, x).tolist() == [[4, 1], [0, 5], [0, 0]]
        # To item 0, user 0's event weighs 1/2, and user 1's newest 1, whoever was first.
        assert mean(back, torch.tensor([[3.0], [0.0], [9.0]])).tolist() == [[1], [3], [0]]

    def test_off_by_default(self, backend):
        graph = plain(self.EDGES, 3, 3, self.TIMES)
        made = adjacencies(graph, backend)
        assert [edges.weight for edges in made] == [None, None]
        assert adjacencies(graph, backend, 0.0) is made
        assert adjacencies(graph, backend, 1.0)[0].weight.tolist() == [0.5, 1, 1, 1]
        assert adjacencies(graph, backend, 0.5)[0].weight.tolist() == [0.25, 1, 1, 1]
        assert adjacencies(graph, backend) is made

    @pytest.mark.parametrize("direction", [0, 1])
    def test_equal_weights_give_the_plain_mean(self, backend, direction):
        edges = adjacencies(plain(self.EDGES, 3, 3), backend)[direction]
        x, *_ = random_inputs(*sizes_of(edges), 1)
        for weight in (1.0, 0.3):
            weighted = replace(edges, weight=torch.full((4,), weight))
            found, expected = mean(weighted, x), mean(edges, x)
            torch.testing.assert_close(found, expected)
            found, expected = (torch.autograd.grad(y.pow(2).sum(), x) for y in (found, expected))
            torch.testing.assert_close(found, expected)

    def test_events_at_one_time_weigh_the_same(self, backend):
        graph = plain(self.EDGES, 3, 3, [5] * 4)
        for weighted, edges in zip(
            adjacencies(graph, backend, 1e-9), adjacencies(graph, backend), strict=True
        ):
            x, *_ = random_inputs(*sizes_of(edges), 1)
            torch.testing.assert_close(mean(weighted, x), mean(edges, x))

    def test_very_old_events(self, backend):
        # Two likes a second apart, and thirty years later a dislike; half-life: a second.
        events, times = [(0, 0, 0), (0, 1, 0), (0, 2, 3)], [0, 1, 10**9]
        x = torch.tensor([[3.0], [6.0], [7.0]], requires_grad=True)
        found = mean(adjacencies(graph_of(events, 3, 1, times=times), backend, 1 / DAY)[0], x)
        torch.testing.assert_close(found.flatten(), torch.tensor([5.0, 7.0]))
        # In one node, the two old events are no longer felt.
        into, back = adjacencies(graph_of(events, 3, 1, False, times), backend, 1 / DAY)
        found = mean(into, x)
        assert found.item() == 7
        assert torch.autograd.grad(found.sum(), x)[0].flatten().tolist() == [0, 0, 1]
        assert mean(back, torch.tensor([[2.0]])).flatten().tolist() == [2, 2, 2]

    def test_a_minute_leaves_the_last_event_of_an_hour(self, backend):
        graph = plain([(0, 0), (1, 0)], 2, 1, [0, 3600])
        x = torch.tensor([[1.0], [2.0]])
        assert mean(adjacencies(graph, backend, 1 / 1440)[0], x).item() == pytest.approx(2)
        means = [mean(adjacencies(graph, backend, days)[0], x).item() for days in (0.01, 0.1, 9.0)]
        assert 2 > means[0] > means[1] > means[2] > 1.5

    @pytest.mark.parametrize("direction", [0, 1])
    @pytest.mark.parametrize(
        "events",
        [[], [(0, 0, 0)], [(0, 1, 0), (0, 0, 3), (1, 1, 0), (1, 1, 0), (2, 1, 0), (1, 0, 2)]],
    )
    def test_gradcheck(self, backend, events, direction):
        edges = adjacencies(graph_of(events, 2, 3), backend, 2 / DAY)[direction]
        x, *_ = random_inputs(*sizes_of(edges), 1)
        assert torch.autograd.gradcheck(edges.sum, (x,))

    def test_without_nodes(self, backend):
        into, back = adjacencies(plain([], 2, 0), backend, 1.0)
        assert mean(into, torch.ones(2, 4)).shape == (0, 4)
        assert mean(back, torch.ones(0, 4)).tolist() == [[0] * 4] * 2


@settings(max_examples=60, deadline=None)
@given(graphs(), st.data(), st.integers(1, 5), st.integers(0, 10**6))
def test_decayed_mean_is_a_dense_product(drawn, data, half_life, seed):
    events, num_items, num_users = drawn
    times = data.draw(st.lists(st.integers(0, 9), min_size=len(events), max_size=len(events)))
    graph = graph_of(events, num_items, num_users, times=times)
    weights = slow_weights(events, times, half_life / DAY)
    for direction, lists in enumerate(edge_lists(events)):
        gradients = []
        for backend in BACKENDS:
            edges = adjacencies(graph, backend, half_life / DAY)[direction]
            x, *_, right = random_inputs(*sizes_of(edges), 1, seed)
            found = mean(edges, x)
            expected = slow_mean(lists, x, len(right), weights)
            np.testing.assert_allclose(found.detach(), expected, rtol=1e-5, atol=1e-6)
            gradients.append(torch.autograd.grad(found.pow(2).sum(), x))
        torch.testing.assert_close(*gradients)


@settings(max_examples=60, deadline=None)
@given(graphs(), st.integers(1, 3), st.integers(0, 10**6))
def test_backends_agree_with_the_formula_and_each_other(drawn, num_heads, seed):
    events, num_items, num_users = drawn
    graph = graph_of(events, num_items, num_users)
    for direction, lists in enumerate(edge_lists(events)):
        gradients = {}
        for backend in BACKENDS:
            edges = adjacencies(graph, backend)[direction]
            x, *rest = random_inputs(*sizes_of(edges), num_heads, seed)
            means, attended = mean(edges, x), edges.attend(*rest)
            np.testing.assert_allclose(means.detach(), slow_mean(lists, x, len(means)), atol=1e-12)
            np.testing.assert_allclose(
                attended.detach(), slow_attend(lists, *rest), rtol=1e-10, atol=1e-12
            )
            upstream = torch.arange(attended.numel(), dtype=torch.float64).view_as(attended)
            total = (attended * upstream.sin()).sum() + (means**2).sum()
            gradients[backend] = torch.autograd.grad(total, (x, *rest))
        for ours, theirs in zip(*gradients.values(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_backends_agree_on_a_million_events():
    rng = np.random.default_rng(0)
    num_users, num_items, num_events = 2000, 1500, 10**6
    offsets = np.arange(num_users + 1) * (num_events // num_users)
    item = rng.zipf(1.3, num_events) % num_items
    kind = rng.integers(NUM_KINDS, size=num_events).astype(np.int8)
    sequences = EventSequences(offsets, item, kind, np.arange(num_events), 86400)
    graph = build_graph(sequences, np.arange(num_users), sequences.lengths, num_items)
    assert len(graph.events.item) == num_events
    results = []
    for backend in BACKENDS:
        into, _ = adjacencies(graph, backend)
        inputs = [tensor.detach() for tensor in random_inputs(*sizes_of(into), 2)]
        inputs = [tensor.float().requires_grad_() for tensor in inputs]
        outputs = mean(into, inputs[0]), into.attend(*inputs[1:])
        total = sum(output.square().sum() for output in outputs)
        results.append([*outputs, *torch.autograd.grad(total, inputs)])
    # A popular item's gradient sums some 10^5 terms, in an order that differs by backend.
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_attention_among_the_items_that_are_reached():
    # Of five items, users have 1 and 4; item 4 in two kinds.
    graph = graph_of([(0, 4, 0), (0, 1, 0), (1, 4, 3)], 5, 2)
    into, _ = adjacencies(graph, "torch")
    reached, edges = into.among_reached
    assert reached.tolist() == [1, 4]
    _, x, left, right = random_inputs(*sizes_of(into), 2)
    pairs = (reached[:, None] * NUM_KINDS + torch.arange(NUM_KINDS)).flatten()
    found = edges.attend(x[pairs], left[pairs], right)
    torch.testing.assert_close(found, into.attend(x, left, right))
    for ours, theirs in zip(
        torch.autograd.grad(found.square().sum(), (x, left, right)),
        torch.autograd.grad(into.attend(x, left, right).square().sum(), (x, left, right)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)
    nothing, none = adjacencies(graph_of([], 5, 2), "torch")[0].among_reached
    assert len(nothing) == len(none.source) == 0
    assert none.attend(x[:0], left[:0], right[:0]).shape == (0, 2, 3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_order_of_events_does_not_matter(backend):
    rng = np.random.default_rng(0)
    events = rng.integers([4, 6, NUM_KINDS], size=(40, 3))
    found = []
    for rows in (events, rng.permutation(events)):
        into, _ = adjacencies(graph_of(rows.tolist(), 6, 4), backend)
        found.append(into.attend(*random_inputs(*sizes_of(into), 2)[1:]))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("backend", BACKENDS)
def test_input_need_not_be_contiguous(backend):
    into, _ = adjacencies(plain([(4, 0), (1, 0)], 5, 1), backend)
    x = torch.randn(2, 5, dtype=torch.float64).T.requires_grad_()  # [5, 2], strided
    torch.testing.assert_close(mean(into, x)[0], (x[4] + x[1]) / 2)
    assert torch.autograd.gradcheck(into.sum, (x,))
    logits = torch.zeros(2, 5, dtype=torch.float64).T, torch.zeros(1, 2, dtype=torch.float64)
    two_heads = x.T.expand(2, -1, -1).permute(2, 0, 1)  # [5, 2, 2], strided
    torch.testing.assert_close(into.attend(two_heads, *logits)[0, 1], (x[4] + x[1]) / 2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_made_once_per_graph_and_freed_with_it(backend):
    graph = plain([(0, 0)], 1, 1)
    made = adjacencies(graph, backend)
    assert adjacencies(graph, backend)[0] is made[0]
    assert adjacencies(graph.to("cpu"), backend)[0] is made[0]
    assert adjacencies(plain([(0, 0)], 1, 1), backend)[0] is not made[0]
    alive = weakref.ref(graph)
    del graph, made
    gc.collect()
    assert alive() is None


def test_dgl_makes_a_heterograph_for_plain_means_alone(monkeypatch):
    made = []
    monkeypatch.setattr(aggregate, "to_dgl", lambda events: made.append(events) or to_dgl(events))
    graph = graph_of([(0, 0, 0), (0, 1, 1), (1, 1, 0)], num_items=2, num_users=2)
    x, left, right = torch.ones(8, 1, 4), torch.zeros(8, 1), torch.zeros(3, 1)
    adjacencies(graph, "dgl")[0].attend(x, left, right)
    mean(adjacencies(graph, "dgl", half_life=1.0)[0], torch.ones(2, 4))
    assert not made
    into, back = adjacencies(graph, "dgl")
    mean(into, torch.ones(2, 4))
    mean(back, torch.ones(3, 4))
    assert len(made) == 1


def test_unknown_backend():
    with pytest.raises(ValueError, match="'dgl' or 'torch', got 'jax'"):
        adjacencies(plain([], 1, 1), "jax")  # type: ignore[arg-type]
