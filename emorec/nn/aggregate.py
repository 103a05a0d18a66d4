"""Sums over events, by DGL or by plain PyTorch: the one place where the backends differ.

Both backends give the two sums that the convolutions need, in either direction, over the in-edges
``u -> v`` of each target:

    mean:    m_v = sum_{u in N(v)} w_uv x_u / sum_{u in N(v)} w_uv,   w_uv = 1 without a decay
    attend:  m_v = sum_{u in N(v)} a_uv x_u,   a_uv = softmax_{u in N(v)} leaky_relu(l_u + r_v)

With a decay an event's weight is ``w_uv = 2^(-age / half_life)``, its age being the time from it to
its user's newest event. A target without edges gets zeros. Every sum runs over edges that are
sorted by target, and its backward is the same sum over the same edges sorted by source: nothing is
ever scattered.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from emorec.data.graph import FeedbackGraph, import_dgl, to_dgl

__all__ = ["Adjacency", "GraphBackend", "adjacencies", "sum_by_owner"]

GraphBackend = Literal["dgl", "torch"]
NEGATIVE_SLOPE = 0.2  # of the attention's leaky ReLU (GAT, section 3.3)
_TINY = torch.finfo(torch.float32).tiny
# PyTorch says so of every sparse matrix; here they only name the places of a product.
warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")


@dataclass(frozen=True, eq=False)
class Adjacency:
    """Edges in one direction, sorted by target and by source.

    Logits may have finer sources than ``x``: an item has one vector, and a logit per kind of
    feedback.

    Attributes:
        offsets: Where each target's edges begin and end, ``[V + 1]``.
        row: For edges sorted by target, the row of ``x``, ``[E]``.
        source: The source of the logit, ``[E]``.
        row_offsets: For edges sorted by source, where those of each row of ``x`` begin and end.
        source_offsets: Where those of each source of logits do, ``[U + 1]``.
        target_by_source: The targets in that order, ``[E]``.
        by_source: The edges in that order, ``[E]``.
        dgl_graphs: The edges and their transpose as graphs of DGL, for its backend.
        weight: For edges sorted by target, what each counts in the mean, ``[E]``; None: all alike.
    """

    offsets: Tensor
    row: Tensor
    source: Tensor
    row_offsets: Tensor
    source_offsets: Tensor
    target_by_source: Tensor
    by_source: Tensor
    dgl_graphs: tuple[Any, Any] | None = None
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
    def divisor(self) -> Tensor:
        """What the mean divides each target's sum by, ``[V, 1]``; not 0 without edges."""
        if self.weight is None:
            return self.in_degree.clamp(min=1)[:, None]
        return _segment_sum(self.weight, self.offsets).clamp(min=_TINY)[:, None]

    def mean(self, x: Tensor) -> Tensor:
        """Mean over in-edges of ``x`` ``[X, D]``, by weight: ``[V, D]``."""
        return _Mean.apply(x, self)

    def attend(self, x: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """Attention-weighted sums of ``x`` over in-edges, one per head.

        Args:
            x: ``[X, D]``.
            left: The sources' part of the logits, ``[U, H]``.
            right: The targets' part, ``[V, H]``.

        Returns:
            ``[V, H, D]``.
        """
        return _Attend.apply(x, left, right, self)

    def sum(self, x: Tensor) -> Tensor:
        """Sum over in-edges of ``x``, by weight, without a gradient."""
        # DGL's weighted sums take 10 to 25 times as long as these bags.
        if self.dgl_graphs is not None and self.weight is None:
            return import_dgl().ops.copy_u_sum(self.dgl_graphs[0], x)
        return _sum_bags(self.row, x, self.offsets, self.weight)

    def sum_back(self, grad: Tensor) -> Tensor:
        """Sum over out-edges of ``grad`` ``[V, D]``, by weight: ``[X, D]``."""
        if self.dgl_graphs is not None and self.weight is None:
            return import_dgl().ops.copy_u_sum(self.dgl_graphs[1], grad)
        return _sum_bags(self.target_by_source, grad, self.row_offsets, self.weight_by_source)


def adjacencies(
    graph: FeedbackGraph, backend: GraphBackend, half_life: float = 0.0
) -> tuple[Adjacency, Adjacency]:
    """The edges from items to the nodes that events reach, and those from nodes back to pairs.

    They are made once per graph. See `emorec.data.graph.Events` for what a pair is.

    Args:
        graph: The graph.
        backend: "dgl" or "torch".
        half_life: Days after which an event weighs half in a mean; 0: all alike.

    Raises:
        ImportError: If ``backend`` is "dgl" and DGL is missing.
        ValueError: If there is no such backend.
    """
    if backend not in ("dgl", "torch"):
        raise ValueError(f"backend must be 'dgl' or 'torch', got {backend!r}")
    made = _made.setdefault(graph, {})
    key = backend, half_life
    if key not in made:
        into, back = _both_directions(graph, with_dgl=backend == "dgl")
        if half_life:
            age = graph.age / half_life
            into = _decayed(into, age)
            back = _decayed(back, age.index_select(0, graph.events.order))
        made[key] = into, back
    return made[key]


_made: WeakKeyDictionary[FeedbackGraph, dict[tuple[str, float], tuple[Adjacency, Adjacency]]]
_made = WeakKeyDictionary()


def _both_directions(graph: FeedbackGraph, with_dgl: bool) -> tuple[Adjacency, Adjacency]:
    events = graph.events
    blocks = to_dgl(graph) if with_dgl else {}
    into = Adjacency(
        offsets=events.node_offsets,
        row=events.item,
        source=events.pair,
        row_offsets=events.item_offsets,
        source_offsets=events.pair_offsets,
        target_by_source=events.node,
        by_source=events.order,
        dgl_graphs=(blocks["item_to_node"], blocks["node_to_item"]) if with_dgl else None,
    )
    back = Adjacency(
        offsets=events.pair_offsets,
        row=events.node,
        source=events.node,
        row_offsets=events.node_offsets,
        source_offsets=events.node_offsets,
        target_by_source=events.pair,
        by_source=events.inverse_order,
        dgl_graphs=(blocks["node_to_pair"], blocks["pair_to_node"]) if with_dgl else None,
    )
    return into, back


def _decayed(edges: Adjacency, age: Tensor) -> Adjacency:
    """The edges, weighted by their age in half-lives, float64 ``[E]``, sorted by target."""
    # A mean needs weights up to a factor: at each target the newest edge gets 1, however old.
    newest = torch.segment_reduce(age, "min", offsets=edges.offsets, unsafe=True)
    weight = torch.exp2(newest.index_select(0, edges.target) - age)
    return replace(edges, weight=weight.float())


class _Mean(torch.autograd.Function):
    """Rows are divided, not edges: that keeps the sums plain without a decay."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, edges: Adjacency) -> Tensor:
        ctx.edges = edges
        return edges.sum(x).div_(edges.divisor)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        edges = ctx.edges
        return edges.sum_back(grad / edges.divisor), None


class _Attend(torch.autograd.Function):
    """Attention with a softmax that is never written out.

    With the weights ``w_uv = exp(leaky_relu(l_u + r_v) - shift_v)`` and ``g'_v = grad_v / sum_u
    w_uv``, rows are divided instead of edges, and the logits' gradient is

        w_uv (<g'_v, x_u> - <g'_v, m_v>) times the slope of the leaky ReLU.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, left: Tensor, right: Tensor, edges: Adjacency) -> Tensor:
        weights, logits, totals, heads = [], [], [], []
        for of_source, of_target in zip(left.T.contiguous(), right.T.contiguous(), strict=True):
            own = of_source.index_select(0, edges.source)  # [E]
            # The leaky ReLU grows, so the largest source has the largest logit.
            largest = torch.segment_reduce(own, "max", offsets=edges.offsets, unsafe=True)
            shift = F.leaky_relu(largest + of_target, NEGATIVE_SLOPE)
            logit = own.add_(of_target.index_select(0, edges.target))
            weight = F.leaky_relu(logit, NEGATIVE_SLOPE)
            weight = weight.sub_(shift.index_select(0, edges.target)).exp_()
            total = _segment_sum(weight, edges.offsets).clamp_(min=_TINY)  # [V]
            heads.append(_sum_bags(edges.row, x, edges.offsets, weight).div_(total[:, None]))
            weights.append(weight)
            logits.append(logit)
            totals.append(total)
        output = torch.stack(heads, dim=1)
        ctx.edges = edges
        ctx.save_for_backward(x, output, *weights, *logits, *totals)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        edges = ctx.edges
        x, output, *saved = ctx.saved_tensors
        num_heads = output.shape[1]
        grad_x = torch.zeros_like(x)
        grad_left, grad_right = [], []
        for h in range(num_heads):
            weight, logit, total = saved[h::num_heads]
            g = grad[:, h] / total[:, None]
            by_source = weight.index_select(0, edges.by_source)
            grad_x += _sum_bags(edges.target_by_source, g, edges.row_offsets, by_source)
            mean_dot = (g * output[:, h]).sum(1)
            dots = _edge_dots(edges, g, x).sub_(mean_dot.index_select(0, edges.target))
            grad_logit = torch.ops.aten.leaky_relu_backward(
                dots.mul_(weight), logit, NEGATIVE_SLOPE, False
            )
            grad_right.append(_segment_sum(grad_logit, edges.offsets))
            grad_left.append(_sum_bags(edges.by_source, grad_logit[:, None], edges.source_offsets))
        return grad_x, torch.cat(grad_left, dim=1), torch.stack(grad_right, dim=1), None


def _segment_sum(values: Tensor, offsets: Tensor) -> Tensor:
    return torch.segment_reduce(values, "sum", offsets=offsets, unsafe=True)


def _edge_dots(edges: Adjacency, target: Tensor, x: Tensor) -> Tensor:
    """``<target_v, x_u>`` of every edge, ``[E]``."""
    if len(edges.row) > len(target) * len(x):  # more than PyTorch lets a sparse matrix hold
        return (target[edges.target] * x[edges.row]).sum(1)
    pattern = torch.sparse_csr_tensor(
        edges.offsets,
        edges.row,
        target.new_zeros(len(edges.row)),
        (len(target), len(x)),
        check_invariants=False,
    )
    torch.sparse.sampled_addmm(pattern, target, x.T, out=pattern)
    return pattern.values()


def _sum_bags(index: Tensor, x: Tensor, offsets: Tensor, weight: Tensor | None = None) -> Tensor:
    """Sums of rows of ``x``: in row ``v`` those that ``index[offsets[v] : offsets[v + 1]]`` names.

    The fastest sum over edges in PyTorch; its own backward is among the slowest.
    """
    return F.embedding_bag(
        index,
        x.contiguous(),
        offsets,
        mode="sum",
        per_sample_weights=None if weight is None else weight.to(x.dtype),
        include_last_offset=True,
    )


def sum_by_owner(x: Tensor, graph: FeedbackGraph) -> Tensor:
    """Sum over each user's nodes of their rows of ``x`` ``[F, D]``: ``[U, D]``."""
    return _SumByOwner.apply(x, graph)


class _SumByOwner(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, graph: FeedbackGraph) -> Tensor:
        ctx.owner = graph.owner
        return _sum_bags(graph.by_owner, x, graph.owner_offsets)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.index_select(0, ctx.owner), None
