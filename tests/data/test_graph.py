from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

from emorec.data.feedback import Feedback
from emorec.data.graph import build_graph, import_dgl, schema, to_dgl
from emorec.data.sequences import EventSequences
from emorec.nn.aggregate import adjacencies
from tests.small import random_events, small_log

# User 0: items 4, 1, 4 explicitly positive, 2 explicitly negative. User 2: item 1 twice negative.
EVENTS = EventSequences.build(
    small_log(
        [
            (0, 4, 0, 10),
            (0, 1, 0, 20),
            (0, 2, 3, 30),
            (0, 4, 0, 40),
            (2, 1, 3, 5),
            (2, 1, 3, 6),
            (2, 0, 2, 7),
        ],
        num_users=3,
        num_items=5,
    )
)
USERS = np.arange(3)


def whole(feedback_nodes: bool = True):
    return build_graph(EVENTS, USERS, EVENTS.lengths, 5, feedback_nodes=feedback_nodes)


def pairs(graph, relation):
    source, target = graph.edges[relation]
    return list(zip(source.tolist(), target.tolist(), strict=True))


class TestSchema:
    def test_three_relations_per_kind(self):
        relations = schema()
        assert len(relations) == 12
        assert relations[:3] == [
            ("item", "item_to_explicit_positive", "explicit_positive"),
            ("explicit_positive", "explicit_positive_to_item", "item"),
            ("explicit_positive", "explicit_positive_to_user", "user"),
        ]
        assert len({name for _, name, _ in relations}) == 12

    def test_without_feedback_nodes(self):
        assert schema(feedback_nodes=False) == [("item", "interacts", "user")]


class TestBuildGraph:
    def test_one_node_per_user_and_kind_that_occurs(self):
        graph = whole()
        nodes = {kind.label: graph.node_user[kind.label].tolist() for kind in Feedback}
        assert nodes == {
            "explicit_positive": [0],
            "implicit_positive": [],
            "implicit_negative": [2],
            "explicit_negative": [0, 2],
        }
        assert list(graph.num_nodes.values()) == graph.sizes == [1, 0, 1, 2]
        assert (graph.num_items, len(graph.users)) == (5, 3)
        assert graph.kind.tolist() == [0, 2, 3, 3]
        assert graph.owner.tolist() == [0, 2, 0, 2]

    def test_edges_and_times(self):
        graph = whole()
        into = ("item", "item_to_explicit_negative", "explicit_negative")
        back = ("explicit_negative", "explicit_negative_to_item", "item")
        up = ("explicit_negative", "explicit_negative_to_user", "user")
        assert pairs(graph, into) == [(2, 0), (1, 1), (1, 1)]  # duplicate edges stay
        assert pairs(graph, back) == [(0, 2), (1, 1), (1, 1)]
        assert pairs(graph, up) == [(0, 0), (1, 2)]
        assert graph.time[into].tolist() == graph.time[back].tolist() == [30, 5, 6]
        assert up not in graph.time

    def test_all_relations_are_there_even_without_edges(self):
        graph = whole()
        assert list(graph.edges) == schema()
        assert pairs(graph, ("item", "item_to_implicit_positive", "implicit_positive")) == []

    def test_a_user_without_events_is_an_isolated_node(self):
        graph = whole()
        assert all(1 not in owners for name, owners in graph.node_user.items() if name != "user")

    def test_only_the_oldest_events(self):
        graph = build_graph(EVENTS, np.array([0, 2]), np.array([2, 0]), 5)
        assert pairs(graph, schema()[0]) == [(4, 0), (1, 0)]
        assert sum(len(source) for source, _ in graph.edges.values()) == 5
        assert graph.node_user["explicit_negative"].tolist() == []

    def test_one_user_may_have_several_nodes(self):
        graph = build_graph(EVENTS, np.array([0, 0]), np.array([1, 3]), 5)
        assert graph.users.tolist() == [0, 0]
        assert graph.node_user["explicit_positive"].tolist() == [0, 1]
        assert pairs(graph, schema()[0]) == [(4, 0), (4, 1), (1, 1)]

    def test_without_feedback_nodes(self):
        graph = whole(feedback_nodes=False)
        assert list(graph.edges) == [("item", "interacts", "user")]
        assert pairs(graph, ("item", "interacts", "user")) == [
            (4, 0), (1, 0), (2, 0), (4, 0), (1, 2), (1, 2), (0, 2)
        ]  # fmt: skip
        assert graph.time["item", "interacts", "user"].tolist() == [10, 20, 30, 40, 5, 6, 7]
        assert list(graph.node_user) == ["user"]

    @pytest.mark.parametrize(("unit", "ticks"), [("s", 86400), ("ms", 86400000)])
    def test_age_is_counted_from_the_newest_event_that_a_node_knows(self, unit, ticks):
        start = 1_700_000_000 * ticks // 86400  # in float32, a day would be lost in milliseconds
        rows = [(0, 1, 0, start), (0, 2, 3, start + ticks), (0, 1, 0, start + 4 * ticks)]
        rows += [(1, 1, 0, start + 9 * ticks)]
        events = EventSequences.build(small_log(rows, 3, 5, unit))
        graph = build_graph(events, np.array([0, 0, 1, 2]), np.array([2, 3, 1, 0]), 5)
        assert graph.owner[graph.events.node_by_event].tolist() == [0, 1, 1, 2, 0, 1]
        assert graph.age.tolist() == [1, 4, 0, 0, 0, 3]
        assert graph.age.dtype == torch.float64

    def test_no_users_at_all(self):
        graph = build_graph(EVENTS, np.zeros(0, int), np.zeros(0, int), 5)
        assert graph.sizes == [0, 0, 0, 0]
        assert all(len(source) == 0 for source, _ in graph.edges.values())
        assert graph.age.tolist() == []

    def test_newer_events_of_the_same_user(self):
        # By kind, then user: user 0's 4, 1, 4; user 2's 0; user 0's 2; user 2's 1, 1.
        assert whole().num_newer.tolist() == [3, 2, 0, 0, 1, 2, 1]
        oldest = build_graph(EVENTS, np.array([0, 0]), np.array([2, 3]), 5)
        assert oldest.num_newer.tolist() == [1, 0, 2, 1, 0]


def sorted_by(values, offsets):
    """Cuts values into the stretches that offsets name."""
    return [part.tolist() for part in values.tensor_split(offsets[1:-1].long())]


class TestEvents:
    def test_by_node(self):
        # Nodes: liked by 0; 2's implicit dislike; disliked by 0; disliked by 2.
        events = whole().events
        assert sorted_by(events.item, events.node_offsets) == [[4, 1, 4], [0], [2], [1, 1]]
        assert events.pair.tolist() == [4 * 4, 1 * 4, 4 * 4, 0 * 4 + 2, 2 * 4 + 3, 1 * 4 + 3, 7]
        assert events.node_by_event.tolist() == [0, 0, 0, 1, 2, 3, 3]
        assert whole().event_time.tolist() == [10, 20, 40, 7, 30, 5, 6]

    def test_by_pair(self):
        events = whole().events
        per_pair = sorted_by(events.node, events.pair_offsets)
        found = {divmod(pair, 4): nodes for pair, nodes in enumerate(per_pair) if nodes}
        assert found == {(0, 2): [1], (1, 0): [0], (1, 3): [3, 3], (2, 3): [2], (4, 0): [0, 0]}
        assert sorted_by(events.node, events.item_offsets) == [[1], [0, 3, 3], [2], [], [0, 0]]

    def test_orders_are_inverse(self):
        events = whole().events
        places = events.inverse_order.long()
        assert events.order[places].tolist() == list(range(7))
        assert torch.equal(events.pair[events.order.long()], events.pair.sort().values)

    def test_owners(self):
        graph = whole()
        assert graph.nodes_of_user.tolist() == [[0, -1, -1, 2], [-1] * 4, [-1, -1, 1, 3]]

    def test_without_feedback_nodes_users_are_the_nodes(self):
        graph = whole(feedback_nodes=False)
        assert graph.num_nodes == {"user": 3}
        assert graph.events.node_offsets.tolist() == [0, 4, 4, 7]
        assert graph.nodes_of_user.tolist() == [[0], [1], [2]]
        assert torch.equal(graph.events.pair, graph.events.item)

    def test_ids_take_four_bytes(self):
        assert all(column.dtype == torch.int32 for column in vars(whole().events).values())


class TestToDgl:
    @pytest.mark.parametrize("feedback_nodes", [True, False])
    def test_same_edges_in_both_directions(self, feedback_nodes):
        pytest.importorskip("dgl")
        events = random_events(num_users=12)
        graph = build_graph(events, np.arange(12), events.lengths, 9, feedback_nodes=feedback_nodes)
        heterograph = to_dgl(graph.events)
        node = graph.events.node_by_event.tolist()
        for source, ids in (("item", graph.events.item), ("pair", graph.events.pair)):
            expected = sorted(zip(ids.tolist(), node, strict=True))
            ends = heterograph.edges(etype=f"{source}_to_node")
            assert sorted(zip(*(end.tolist() for end in ends), strict=True)) == expected
            ends = reversed(heterograph.edges(etype=f"node_to_{source}"))
            assert sorted(zip(*(end.tolist() for end in ends), strict=True)) == expected
        assert heterograph.num_nodes("node") == len(graph.owner)
        assert heterograph.num_nodes("item") == 9

    def test_without_dgl_the_error_names_what_to_do(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "dgl", None)  # import dgl now fails
        with pytest.raises(
            ImportError, match="pip install dgl==1.1.3.*--backend torch.*backend=torch"
        ):
            to_dgl(whole().events)


def test_importing_dgl_leaves_warnings_as_they_were():
    pytest.importorskip("dgl")
    code = (
        "import warnings; before = warnings.formatwarning\n"
        "from emorec.data.graph import import_dgl; import_dgl()\n"
        "assert warnings.formatwarning is before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)  # a fresh interpreter
    before = warnings.formatwarning
    import_dgl()
    assert warnings.formatwarning is before


def test_moving_to_where_it_is_keeps_the_graph():
    graph = whole()
    assert graph.to("cpu") is graph


def test_moves_to_a_device(device):
    graph = whole().to(device)
    assert graph.users.device.type == device.type
    assert all(source.device.type == device.type for source, _ in graph.edges.values())
    assert pairs(graph, schema()[0]) == pairs(whole(), schema()[0])


@pytest.mark.parametrize("feedback_nodes", [True, False])
def test_among_some_items_sums_are_the_same(feedback_nodes):
    events = random_events(num_items=9)
    users = np.array([0, 3, 5])
    lengths = events.lengths[users]
    graph = build_graph(events, users, lengths, 9, feedback_nodes=feedback_nodes)
    items = torch.unique(torch.cat([graph.events.item.long(), torch.tensor([8])]))
    few = graph.among(items)
    assert few.num_items == len(items)
    assert torch.equal(items[few.events.item.long()], graph.events.item.long())
    vectors = torch.randn(9, 4)
    whole, part = (
        adjacencies(each, "torch")[0].sum(x)
        for each, x in ((graph, vectors), (few, vectors[items]))
    )
    assert torch.equal(whole, part)
    grad = torch.randn_like(whole)
    assert torch.equal(
        adjacencies(graph, "torch")[0].sum_back(grad)[items],
        adjacencies(few, "torch")[0].sum_back(grad),
    )
