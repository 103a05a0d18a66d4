"""The feedback graph: users, items, and one node per (user, kind of feedback) that occurs."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from types import ModuleType
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from emorec.data.feedback import Feedback
from emorec.data.sequences import EventSequences
from emorec.data.transfer import moved

__all__ = ["Events", "FeedbackGraph", "Relation", "build_graph", "import_dgl", "schema", "to_dgl"]

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
    return [relation for kind in Feedback for relation in _kind_relations(kind.label)]


def _kind_relations(kind: str) -> tuple[Relation, Relation, Relation]:
    return (
        ("item", f"item_to_{kind}", kind),
        (kind, f"{kind}_to_item", "item"),
        (kind, f"{kind}_to_user", "user"),
    )


@dataclass(frozen=True, eq=False)
class Events:
    """The events between items and the nodes that they reach, sorted both ways.

    With ``R`` kinds, an item's events of one kind form a *pair*, numbered ``item * R + kind``. The
    two orders are all that sums over edges need, in both directions, forward and backward.

    Attributes:
        item: Item of each event, int32 ``[E]``; events are sorted by node.
        pair: Pair of each event, int32 ``[E]``.
        node_offsets: Where each node's events begin and end, int32 ``[F + 1]``.
        node: Node of each event, events sorted by pair, int32 ``[E]``.
        order: The events in that order, int32 ``[E]``.
        pair_offsets: Where each pair's events begin and end, int32 ``[I * R + 1]``.
        item_offsets: Every ``R``-th of these: where each item's do, int32 ``[I + 1]``.
    """

    item: Tensor
    pair: Tensor
    node_offsets: Tensor
    node: Tensor
    order: Tensor
    pair_offsets: Tensor
    item_offsets: Tensor

    @property
    def node_by_event(self) -> Tensor:
        """Node of each event, events sorted by node, int64 ``[E]``."""
        return torch.repeat_interleave(self.node_offsets.diff().long())

    @property
    def inverse_order(self) -> Tensor:
        """Place of each event in the order by pair, int32 ``[E]``."""
        places = torch.arange(len(self.order), dtype=torch.int32, device=self.order.device)
        return torch.empty_like(self.order).index_copy(0, self.order.long(), places)

    def to(self, device: torch.device | str) -> Events:
        """The events on another device."""
        return Events(*(moved(getattr(self, field.name), device) for field in fields(self)))


@dataclass(frozen=True, eq=False)
class FeedbackGraph:
    """A graph over some users and all items; free of any graph library.

    Nodes that events reach are sorted by kind of feedback, then by user. Without feedback nodes
    they are the users themselves, of one kind.

    Attributes:
        users: User of each user node, int64 ``[U]``.
        num_items: Number of item nodes.
        num_nodes: For each node type that events reach, the number of its nodes.
        kind: Kind of each of these nodes, int64 ``[F]``.
        owner: User node that owns it, int64 ``[F]``.
        nodes_of_user: Each user's node of each kind, -1 where there is none, int32 ``[U, R]``.
        events: The edges between items and nodes.
        event_time: Time of each event, sorted by node, int64 ``[E]``.
        num_newer: Newer events of the same user node, of any kind, likewise, int64 ``[E]``.
        ticks_per_day: Units of ``event_time`` in a day.
    """

    users: Tensor
    num_items: int
    num_nodes: dict[str, int]
    kind: Tensor
    owner: Tensor
    nodes_of_user: Tensor
    events: Events
    event_time: Tensor
    num_newer: Tensor
    ticks_per_day: int

    def to(self, device: torch.device | str) -> FeedbackGraph:
        """The graph on another device; itself if it is there already."""
        if self.users.device == torch.device(device):
            return self  # and keeps what was derived from it
        arrays: dict[str, Any] = {
            field.name: moved(value, device)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor | Events)
        }
        return replace(self, **arrays)

    def among(self, items: Tensor) -> FeedbackGraph:
        """The graph over some items, numbered anew, for sums over events.

        Pairs keep the numbers that they have.

        Args:
            items: The items, ascending, all that have events among them, int64 ``[M]``.
        """
        events = self.events
        offsets = torch.cat([events.item_offsets[items], events.item_offsets[-1:]])
        item = torch.searchsorted(items, events.item.long()).to(torch.int32)
        events = replace(events, item=item, item_offsets=offsets)
        return replace(self, num_items=len(items), events=events)

    @property
    def sizes(self) -> list[int]:
        """Nodes of each kind."""
        return list(self.num_nodes.values())

    @property
    def node_user(self) -> dict[str, Tensor]:
        """For each node type but "item", the user node that owns each node, int64."""
        owners = self.owner.split(self.sizes)
        everyone = torch.arange(len(self.users), device=self.users.device)
        return {"user": everyone, **dict(zip(self.num_nodes, owners, strict=True))}

    @property
    def edges(self) -> dict[Relation, tuple[Tensor, Tensor]]:
        """Source and target nodes of every relation, int64 ``[E]`` each."""
        if "user" in self.num_nodes:
            (relation,) = schema(feedback_nodes=False)
            return {relation: (self.events.item.long(), self.events.node_by_event)}
        edges: dict[Relation, tuple[Tensor, Tensor]] = {}
        for kind, nodes, events in self._parts():
            items = self.events.item[events].long()
            ends = self.events.node_by_event[events] - nodes.start
            owners = self.owner[nodes]
            into, back, up = _kind_relations(kind)
            edges[into], edges[back] = (items, ends), (ends, items)
            edges[up] = torch.arange(len(owners), device=owners.device), owners
        return edges

    @property
    def time(self) -> dict[Relation, Tensor]:
        """Event times of every relation between items and others, int64 ``[E]``."""
        if "user" in self.num_nodes:
            return dict.fromkeys(schema(feedback_nodes=False), self.event_time)
        return {
            relation: self.event_time[events]
            for kind, _, events in self._parts()
            for relation in _kind_relations(kind)[:2]
        }

    @property
    def age(self) -> Tensor:
        """Days from each event to its user node's newest, sorted by node, float64 ``[E]``."""
        owner = self.owner[self.events.node_by_event]
        newest = torch.zeros_like(self.users).scatter_reduce(
            0, owner, self.event_time, "amax", include_self=False
        )
        return (newest[owner] - self.event_time).double() / self.ticks_per_day

    def _parts(self) -> Iterator[tuple[str, slice, slice]]:
        """Each kind's nodes and, sorted by node, its events."""
        start = 0
        for kind, count in self.num_nodes.items():
            nodes = slice(start, start + count)
            first, last = self.events.node_offsets[[nodes.start, nodes.stop]].tolist()
            yield kind, nodes, slice(first, last)
            start += count


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
        num_events: How many of the oldest events each node has, int64 ``[U]``.
        num_items: Size of the catalogue.
        feedback_nodes: Whether events pass through feedback nodes, see `schema`.
    """
    owner, event = events.events(users, num_events)
    num_newer = (events.offsets[users] + num_events)[owner] - 1 - event
    names, slot = ["user"], owner
    if feedback_nodes:
        names = [kind.label for kind in Feedback]
        slot = events.feedback[event].astype(np.int64) * len(users) + owner
    by_node, slot_offsets = _counting_sort(slot, len(names) * len(users))
    event = event[by_node]
    # Only (kind, user) slots that occur become nodes; without feedback nodes all users are.
    counts = np.diff(slot_offsets)
    slots = np.flatnonzero(counts) if feedback_nodes else np.arange(len(users))
    kind, owner = np.divmod(slots, max(len(users), 1))
    item = events.item[event].astype(np.int32)
    node_offsets = _offsets(counts[slots])
    node = np.repeat(np.arange(len(slots), dtype=np.int32), counts[slots])
    pair = item * len(names) + np.repeat(kind.astype(np.int32), counts[slots])
    order, pair_offsets = _counting_sort(pair, num_items * len(names))
    nodes_of_user = np.full((len(users), len(names)), -1, np.int32)
    nodes_of_user[owner, kind] = np.arange(len(slots))
    return FeedbackGraph(
        users=torch.from_numpy(users),
        num_items=num_items,
        num_nodes=dict(zip(names, np.bincount(kind, minlength=len(names)).tolist(), strict=True)),
        kind=torch.from_numpy(kind),
        owner=torch.from_numpy(owner),
        nodes_of_user=torch.from_numpy(nodes_of_user),
        events=Events(
            *map(
                torch.from_numpy,
                (
                    item,
                    pair,
                    node_offsets,
                    node[order],
                    order,
                    pair_offsets,
                    np.ascontiguousarray(pair_offsets[:: len(names)]),
                ),
            )
        ),
        event_time=torch.from_numpy(events.time[event]),
        num_newer=torch.from_numpy(num_newer[by_node]),
        ticks_per_day=events.ticks_per_day,
    )


def _counting_sort(key: np.ndarray, num_keys: int) -> tuple[np.ndarray, np.ndarray]:
    """The stable order of small integers, and where each begins in it, int32.

    A matrix of one entry per row is turned from rows to columns, which is linear in its size.
    """
    rows = np.arange(len(key) + 1, dtype=np.int32)
    entries = np.zeros(len(key), np.int8), key.astype(np.int32), rows
    matrix = csr_array(entries, shape=(len(key), num_keys)).tocsc()
    return matrix.indices, matrix.indptr


def _offsets(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)


def to_dgl(events: Events) -> Any:
    """The events as a DGL heterograph of items, pairs and the nodes that events reach.

    Its relations are item_to_node, pair_to_node and their transposes, in DGL's compressed format,
    so that DGL has nothing to sort.

    Raises:
        ImportError: If DGL is not installed, with what to do.
    """
    dgl = import_dgl()
    as_stored = torch.empty(0, dtype=torch.int32, device=events.item.device)
    return dgl.heterograph(
        {
            ("item", "item_to_node", "node"): (
                "csc",
                (events.node_offsets, events.item, as_stored),
            ),
            ("node", "node_to_item", "item"): (
                "csc",
                (events.item_offsets, events.node, as_stored),
            ),
            ("pair", "pair_to_node", "node"): (
                "csc",
                (events.node_offsets, events.pair, as_stored),
            ),
            ("node", "node_to_pair", "pair"): (
                "csc",
                (events.pair_offsets, events.node, as_stored),
            ),
        },
        num_nodes_dict={
            "item": len(events.item_offsets) - 1,
            "pair": len(events.pair_offsets) - 1,
            "node": len(events.node_offsets) - 1,
        },
        idtype=torch.int32,
    )


@dataclass(frozen=True)
class GraphSource:
    """Builds the graphs that a model's graph encoder needs.

    Attributes:
        events: All users' events.
        num_items: Size of the catalogue.
        feedback_nodes: See `schema`.
        full: Whether a user's vector depends on other users' events, so that a graph of the
            batch's users alone is not enough.
    """

    events: EventSequences
    num_items: int
    feedback_nodes: bool
    full: bool

    def graph(self, users: np.ndarray, num_events: np.ndarray) -> FeedbackGraph:
        """A graph with one user node per entry, of each one's oldest ``num_events`` events."""
        return build_graph(
            self.events, users, num_events, self.num_items, feedback_nodes=self.feedback_nodes
        )


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
    except (ImportError, OSError) as error:  # OSError: of its native library
        raise ImportError(
            f"the dgl backend needs DGL, which cannot be imported here ({error}); install it with "
            "'pip install dgl==1.1.3' (Python 3.11 or older, not Windows) or use --backend torch, "
            "which is the setting model.backend=torch"
        ) from error
    finally:
        warnings.formatwarning = formatwarning
    return dgl
