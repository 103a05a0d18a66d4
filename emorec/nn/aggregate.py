"""Sums over events, by DGL or by plain PyTorch: the one place where the backends differ.

Both backends give the two sums that the convolutions need, in either direction, over the in-edges
``u -> v`` of each target:

    sum:     m_v = sum_{u in N(v)} w_uv x_u,   w_uv = 1 without a decay
    attend:  m_v = sum_{u in N(v)} a_uv x_u,   a_uv = softmax_{u in N(v)} leaky_relu(l_u + r_v)

DGL makes the first one where all edges weigh alike. Attention is `emorec.ops.graph_attention` and
weighted sums are PyTorch's bags on both backends: DGL's take several times as long. Its heterograph
is made with the first sum that it is wanted for.

A mean is a sum over what the edges weigh: who uses it scales rows, which are fewer than edges. With
a decay an event's weight is ``w_uv = 2^(-age / half_life)``, its age being the time from it to
its user's newest event. A target without edges gets zeros. Every sum runs over edges that are
sorted by target, and its backward is the same sum over the same edges sorted by source: nothing is
ever scattered.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from emorec.data.graph import Events, FeedbackGraph, import_dgl, to_dgl
from emorec.ops.graph_attention import graph_attention
from emorec.ops.segments import segment_sum, sum_bags

__all__ = ["Adjacency", "GraphBackend", "adjacencies"]

GraphBackend = Literal["dgl", "torch"]
_TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True, eq=False)
class Adjacency:
    """Edges in one direction, sorted by target and by source.

    Attention may have finer sources than a sum: those of an item in as many kinds of feedback.

    Attributes:
        offsets: Where each target's edges begin and end, ``[V + 1]``.
        row: For edges sorted by target, the row of what is summed, ``[E]``.
        source: The row of what is attended to, ``[E]``.
        row_offsets: For edges sorted by source, where those of each row of a sum begin and end.
        source_offsets: Where those of each source of attention do, ``[U + 1]``.
        target_by_source: The targets in that order, ``[E]``.
        by_source: The edges in that order, ``[E]``.
        dgl_graphs: Makes the edges and their transpose as graphs of DGL, for its backend.
        weight: For edges sorted by target, what each counts in the sum, ``[E]``; None: all alike.
    """

    offsets: Tensor
    row: Tensor
    source: Tensor
    row_offsets: Tensor
    source_offsets: Tensor
    target_by_source: Tensor
    by_source: Tensor
    dgl_graphs: Callable[[], tuple[Any, Any]] | None = None
    weight: Tensor | None = None

    @cached_property
    def target(self) -> Tensor:
        """For edges sorted by target, the target, ``[E]``."""
        return torch.repeat_interleave(self.in_degree)

    @property
    def in_degree(self) -> Tensor:
        """Edges into each target, ``[V]``."""
        return self.offsets.diff()

    @cached_property
    def weight_by_source(self) -> Tensor | None:
        """For edges sorted by source, the weight, ``[E]``; None: all alike."""
        return None if self.weight is None else self.weight.index_select(0, self.by_source)

    @cached_property
    def total_weight(self) -> Tensor:
        """What each target's edges weigh, by which its sum becomes a mean, ``[V]``; not 0."""
        if self.weight is None:
            return self.in_degree.clamp(min=1)
        return segment_sum(self.weight, self.offsets).clamp(min=_TINY)

    @cached_property
    def among_reached(self) -> tuple[Tensor, Adjacency]:
        """Rows of sums that have edges, int64, and the edges of attention, numbered by these.

        A graph of few users reaches few of a large catalogue's items; the others need no values.
        """
        has_edges = self.row_offsets.diff() > 0
        reached = has_edges.nonzero()[:, 0]
        per_row = max((len(self.source_offsets) - 1) // max(len(has_edges), 1), 1)  # sources
        place = has_edges.cumsum(0, dtype=torch.int32) - 1
        source = place[self.row.long()] * per_row + self.source % per_row
        first = self.source_offsets[:-1].view(len(has_edges), per_row)[reached].flatten()
        offsets = torch.cat([first, self.source_offsets[-1:]])
        return reached, replace(self, source=source, source_offsets=offsets)

    def sum(self, x: Tensor) -> Tensor:
        """Sum over in-edges of ``x`` ``[X, D]``, by weight: ``[V, D]``."""
        return _Sum.apply(x, self)

    def attend(self, x: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """Attention-weighted sums of ``x`` over in-edges, head by head.

        Args:
            x: ``[U, H, N]``.
            left: The sources' part of the logits, ``[U, H]``.
            right: The targets' part, ``[V, H]``.

        Returns:
            ``[V, H, N]``.
        """
        return graph_attention(
            x, left, right, self.offsets, self.source, self.source_offsets, self.target_by_source
        )

    def sum_into(self, x: Tensor) -> Tensor:
        """`sum` without a gradient."""
        # DGL's weighted sums take 10 to 25 times as long as these bags.
        if self.dgl_graphs is not None and self.weight is None:
            return import_dgl().ops.copy_u_sum(self.dgl_graphs()[0], x)
        return sum_bags(self.row, x, self.offsets, self.weight)

    def sum_back(self, grad: Tensor) -> Tensor:
        """Sum over out-edges of ``grad`` ``[V, D]``, by weight, without a gradient: ``[X, D]``."""
        if self.dgl_graphs is not None and self.weight is None:
            return import_dgl().ops.copy_u_sum(self.dgl_graphs()[1], grad)
        return sum_bags(self.target_by_source, grad, self.row_offsets, self.weight_by_source)


def adjacencies(
    graph: FeedbackGraph, backend: GraphBackend, half_life: float = 0.0
) -> tuple[Adjacency, Adjacency]:
    """The edges from items to the nodes that events reach, and those from nodes back to pairs.

    They are made once per graph. See `emorec.data.graph.Events` for what a pair is.

    Args:
        graph: The graph.
        backend: "dgl" or "torch".
        half_life: Days after which an event has half its weight in a sum; 0: no decay.

    Raises:
        ImportError: If ``backend`` is "dgl" and DGL is missing.
        ValueError: If there is no such backend.
    """
    if backend not in ("dgl", "torch"):
        raise ValueError(f"backend must be 'dgl' or 'torch', got {backend!r}")
    made = _made.setdefault(graph, {})
    key = backend, half_life
    if key not in made:
        into, back = _both_directions(graph.events)
        if backend == "dgl":
            into, back = _on_dgl(graph.events, into, back)
        if half_life:
            age = graph.age / half_life
            into = _decayed(into, age)
            back = _decayed(back, age.index_select(0, graph.events.order))
        made[key] = into, back
    return made[key]


_made: WeakKeyDictionary[FeedbackGraph, dict[tuple[str, float], tuple[Adjacency, Adjacency]]]
_made = WeakKeyDictionary()


def _both_directions(events: Events) -> tuple[Adjacency, Adjacency]:
    into = Adjacency(
        offsets=events.node_offsets,
        row=events.item,
        source=events.pair,
        row_offsets=events.item_offsets,
        source_offsets=events.pair_offsets,
        target_by_source=events.node,
        by_source=events.order,
    )
    back = Adjacency(
        offsets=events.pair_offsets,
        row=events.node,
        source=events.node,
        row_offsets=events.node_offsets,
        source_offsets=events.node_offsets,
        target_by_source=events.pair,
        by_source=events.inverse_order,
    )
    return into, back


def _on_dgl(events: Events, into: Adjacency, back: Adjacency) -> tuple[Adjacency, Adjacency]:
    import_dgl()  # fails now rather than with the first sum

    @cache
    def relations() -> dict[str, Any]:
        heterograph = to_dgl(events)
        return {name: heterograph[name] for name in heterograph.etypes}

    def graphs(edges: str, transpose: str) -> Callable[[], tuple[Any, Any]]:
        return lambda: (relations()[edges], relations()[transpose])

    return (
        replace(into, dgl_graphs=graphs("item_to_node", "node_to_item")),
        replace(back, dgl_graphs=graphs("node_to_pair", "pair_to_node")),
    )


def _decayed(edges: Adjacency, age: Tensor) -> Adjacency:
    """The edges, weighted by their age in half-lives, float64 ``[E]``, sorted by target."""
    # A mean needs weights up to a factor: at each target the newest edge gets 1, however old.
    newest = torch.segment_reduce(age, "min", offsets=edges.offsets, unsafe=True)
    weight = torch.exp2(newest.index_select(0, edges.target) - age)
    return replace(edges, weight=weight.float())


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, edges: Adjacency) -> Tensor:
        ctx.edges = edges
        return edges.sum_into(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.edges.sum_back(grad), None
