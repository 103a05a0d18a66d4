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
        assert graph.num_nodes("item") == 5
        assert graph.num_nodes("user") == 3
        assert graph.num_nodes("explicit_negative") == 2

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

    def test_no_users_at_all(self):
        graph = build_graph(EVENTS, np.zeros(0, int), np.zeros(0, int), 5)
        assert graph.num_nodes("user") == 0
        assert all(len(source) == 0 for source, _ in graph.edges.values())


class TestToDgl:
    @pytest.mark.parametrize("feedback_nodes", [True, False])
    def test_same_nodes_edges_and_times(self, feedback_nodes):
        pytest.importorskip("dgl")
        events = random_events(num_users=12)
        graph = build_graph(events, np.arange(12), events.lengths, 9, feedback_nodes=feedback_nodes)
        heterograph = to_dgl(graph)
        assert set(heterograph.canonical_etypes) == set(graph.edges)
        for name in ["item", *graph.node_user]:
            assert heterograph.num_nodes(name) == graph.num_nodes(name)
        for relation, (source, target) in graph.edges.items():
            found = heterograph.edges(etype=relation)
            assert torch.equal(found[0], source)
            assert torch.equal(found[1], target)
            if relation in graph.time:
                assert torch.equal(heterograph.edges[relation].data["time"], graph.time[relation])

    def test_without_dgl_the_error_names_what_to_do(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "dgl", None)  # import dgl now fails
        with pytest.raises(ImportError, match="pip install dgl==1.1.3.*--backend torch"):
            to_dgl(whole())


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


def test_moves_to_a_device(device):
    graph = whole().to(device)
    assert graph.users.device.type == device.type
    assert all(source.device.type == device.type for source, _ in graph.edges.values())
    assert pairs(graph, schema()[0]) == pairs(whole(), schema()[0])
