"""The feedback graph: users, items, and one node per (user, kind of feedback) that occurs."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from emorec.data.feedback import Feedback
from emorec.data.sequences import EventSequences

__all__ = ["FeedbackGraph", "Relation", "build_graph", "import_dgl", "schema", "to_dgl"]

Relation = tuple[str, str, str]
"""Canonical relation: source node type, name, target node type."""


def schema(feedback_nodes: bool = True) -> list[Relation]:
    """The relations of a graph.

    Args:
        feedback_nodes: With feedback nodes (paper, 3.1), per kind item -> feedback,
            feedback -> item and feedback -> user; without, the one relation item -> user.
    """
    if not feedback_nodes:
        return [("item", "interacts", "user")]
    return [relation for kind in Feedback for relation in _kind_relations(kind)]


def _kind_relations(kind: Feedback) -> tuple[Relation, Relation, Relation]:
    return (
        ("item", f"item_to_{kind.label}", kind.label),
        (kind.label, f"{kind.label}_to_item", "item"),
        (kind.label, f"{kind.label}_to_user", "user"),
    )


@dataclass(frozen=True)
class FeedbackGraph:
    """Edge tensors of a graph over some users and all items; free of any graph library.

    Attributes:
        users: User of each user node, int64 ``[U]``.
        num_items: Number of item nodes.
        node_user: For each node type but "item", the user node that owns each node, int64.
        edges: Source and target nodes per relation, int64 ``[E]`` each.
        time: Event times per relation between items and others, int64 ``[E]``.
    """

    users: Tensor
    num_items: int
    node_user: dict[str, Tensor]
    edges: dict[Relation, tuple[Tensor, Tensor]]
    time: dict[Relation, Tensor]

    def num_nodes(self, node_type: str) -> int:
        """Number of nodes of a type."""
        return self.num_items if node_type == "item" else len(self.node_user[node_type])

    def to(self, device: torch.device | str) -> FeedbackGraph:
        """The graph on another device."""
        return FeedbackGraph(
            self.users.to(device),
            self.num_items,
            {name: rows.to(device) for name, rows in self.node_user.items()},
            {
                name: (source.to(device), target.to(device))
                for name, (source, target) in self.edges.items()
            },
            {name: time.to(device) for name, time in self.time.items()},
        )


def build_graph(
    events: EventSequences,
    users: np.ndarray,
    num_events: np.ndarray,
    num_items: int,
    *,
    feedback_nodes: bool = True,
) -> FeedbackGraph:
    """Builds the graph of the oldest events of some users.

    Args:
        events: All users' events.
        users: User of each user node, int64 ``[U]``; a user may have several nodes.
        num_events: How many of the oldest events each node may know, int64 ``[U]``.
        num_items: Size of the catalogue.
        feedback_nodes: Whether events pass through feedback nodes, see `schema`.
    """
    owner, event = events.events(users, num_events)
    item, feedback, time = events.item[event], events.feedback[event], events.time[event]
    node_user = {"user": torch.arange(len(users))}
    edges: dict[Relation, tuple[Tensor, Tensor]] = {}
    times: dict[Relation, Tensor] = {}
    if not feedback_nodes:
        (relation,) = schema(feedback_nodes=False)
        edges[relation] = torch.from_numpy(item), torch.from_numpy(owner)
        times[relation] = torch.from_numpy(time)
        return FeedbackGraph(torch.from_numpy(users), num_items, node_user, edges, times)
    for kind in Feedback:
        into, back, up = _kind_relations(kind)
        rows = np.flatnonzero(feedback == kind)
        owners, node = np.unique(owner[rows], return_inverse=True)  # a node per user of this kind
        items, nodes, when = (torch.from_numpy(column) for column in (item[rows], node, time[rows]))
        edges[into], edges[back] = (items, nodes), (nodes, items)
        times[into] = times[back] = when
        edges[up] = torch.arange(len(owners)), torch.from_numpy(owners)
        node_user[kind.label] = torch.from_numpy(owners)
    return FeedbackGraph(torch.from_numpy(users), num_items, node_user, edges, times)


def to_dgl(graph: FeedbackGraph) -> Any:
    """The graph as a DGL heterograph with event times in ``edata["time"]``.

    Raises:
        ImportError: If DGL is not installed, with what to do.
    """
    dgl = import_dgl()
    names = ["item", *graph.node_user]
    heterograph = dgl.heterograph(
        {relation: edges for relation, edges in graph.edges.items()},
        num_nodes_dict={name: graph.num_nodes(name) for name in names},
        idtype=torch.int64,
        device=graph.users.device,
    )
    for relation, time in graph.time.items():
        heterograph.edges[relation].data["time"] = time
    return heterograph


def import_dgl() -> ModuleType:
    """Imports DGL without its side effects on the home folder and on warnings.

    Raises:
        ImportError: If DGL cannot be imported, with the reason and what to do.
    """
    # Unset, DGL prints two lines and writes a file into the home folder.
    os.environ.setdefault("DGLBACKEND", "pytorch")
    formatwarning = warnings.formatwarning  # DGL replaces it for the whole process
    try:
        import dgl
    except ImportError as error:
        raise ImportError(
            f"the dgl backend needs DGL, which cannot be imported here ({error}); install it with "
            "'pip install dgl==1.1.3' (Python 3.11 or older, not Windows) or use --backend torch"
        ) from error
    finally:
        warnings.formatwarning = formatwarning
    return dgl
