"""Sums over edges, by DGL or by plain PyTorch: the one place where the backends differ.

Both backends give the two sums that the convolutions need, over the edges ``u -> v`` of one
relation:

    mean:    m_v = 1 / |N(v)| * sum_{u in N(v)} x_u
    attend:  m_v = sum_{u in N(v)} a_uv x_u,   a_uv = softmax_{u in N(v)} leaky_relu(l_u + r_v)

A node without edges gets zeros.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from emorec.data.graph import FeedbackGraph, Relation, import_dgl, to_dgl

__all__ = ["Adjacency", "GraphBackend", "adjacencies"]

GraphBackend = Literal["dgl", "torch"]
NEGATIVE_SLOPE = 0.2  # of the attention's leaky ReLU (GAT, section 3.3)


class Adjacency(Protocol):
    """The edges of one relation."""

    in_degree: Tensor
    """Edges into each target node, int64 ``[V]``."""

    def mean(self, x: Tensor) -> Tensor:
        """Mean over in-edges of ``x`` ``[U, D]``: ``[V, D]``."""
        ...

    def attend(self, x: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """Attention-weighted sum of ``x`` ``[U, H, D]``; ``left`` ``[U, H]``, ``right`` ``[V, H]``.

        Returns:
            ``[V, H, D]``.
        """
        ...


def adjacencies(graph: FeedbackGraph, backend: GraphBackend) -> dict[Relation, Adjacency]:
    """Every relation's edges, ready for a backend.

    Raises:
        ImportError: If ``backend`` is "dgl" and DGL is missing.
        ValueError: If there is no such backend.
    """
    if backend == "dgl":
        ops, heterograph = import_dgl().ops, to_dgl(graph)
        return {relation: _DglAdjacency(heterograph[relation], ops) for relation in graph.edges}
    if backend == "torch":
        return {
            (source, name, target): _TorchAdjacency(
                *edges, graph.num_nodes(source), graph.num_nodes(target)
            )
            for (source, name, target), edges in graph.edges.items()
        }
    raise ValueError(f"backend must be 'dgl' or 'torch', got {backend!r}")


class _DglAdjacency:
    """One relation of a DGL heterograph."""

    def __init__(self, graph: Any, ops: Any) -> None:
        self._graph, self._ops = graph, ops
        self.in_degree: Tensor = graph.in_degrees()
        self._is_matching = _is_matching(self.in_degree)

    def mean(self, x: Tensor) -> Tensor:
        return self._ops.copy_u_mean(self._graph, x)

    def attend(self, x: Tensor, left: Tensor, right: Tensor) -> Tensor:
        if self._is_matching:
            return self.mean(x.flatten(1)).view(-1, *x.shape[1:])
        logits = F.leaky_relu(self._ops.u_add_v(self._graph, left, right), NEGATIVE_SLOPE)
        weights = self._ops.edge_softmax(self._graph, logits)  # [E, H]
        return self._ops.u_mul_e_sum(self._graph, x, weights[..., None])


class _TorchAdjacency:
    """One relation in plain PyTorch, its edges sorted by target (CSR)."""

    def __init__(self, source: Tensor, target: Tensor, num_sources: int, num_targets: int) -> None:
        order = torch.argsort(target, stable=True)
        self.source, self.target = source[order], target[order]
        self.num_sources = num_sources
        self.in_degree = torch.bincount(target, minlength=num_targets)
        self.offsets = _offsets(self.in_degree)
        self._is_matching = _is_matching(self.in_degree)

    @cached_property
    def transposed(self) -> tuple[Tensor, Tensor, Tensor]:
        """Edge order by source, the targets in that order, and where each source begins (CSC)."""
        order = torch.argsort(self.source, stable=True)
        counts = torch.bincount(self.source, minlength=self.num_sources)
        return order, self.target[order], _offsets(counts)

    def mean(self, x: Tensor) -> Tensor:
        return _BagSum.apply(x, None, self) / self.in_degree.clamp(min=1)[:, None].to(x.dtype)

    def attend(self, x: Tensor, left: Tensor, right: Tensor) -> Tensor:
        if self._is_matching:
            return self.mean(x.flatten(1)).view(-1, *x.shape[1:])
        logits = F.leaky_relu(left[self.source] + right[self.target], NEGATIVE_SLOPE)  # [E, H]
        place = self.target[:, None].expand_as(logits)
        with torch.no_grad():  # the softmax does not depend on the shift
            shift = torch.zeros_like(right).scatter_reduce(
                0, place, logits, "amax", include_self=False
            )
        weights = torch.exp(logits - shift[self.target])
        total = torch.zeros_like(right).scatter_add(0, place, weights)  # [V, H]
        weights = weights / total[self.target]
        heads = [_BagSum.apply(x[:, h], weights[:, h], self) for h in range(x.shape[1])]
        return torch.stack(heads, dim=1)


class _BagSum(torch.autograd.Function):
    """Weighted sum over in-edges; the backward is the same sum over the transposed edges.

    `embedding_bag` is the fastest sum over edges in PyTorch, its own dense backward the slowest.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, edges: _TorchAdjacency) -> Tensor:
        ctx.edges = edges
        ctx.save_for_backward(x, weight)
        return _bag(edges.source, x, edges.offsets, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        order, target, offsets = ctx.edges.transposed
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_x = _bag(target, grad, offsets, None if weight is None else weight[order])
        if ctx.needs_input_grad[1]:
            grad_weight = (x[ctx.edges.source] * grad[ctx.edges.target]).sum(-1)
        return grad_x, grad_weight, None


def _bag(index: Tensor, table: Tensor, offsets: Tensor, weight: Tensor | None) -> Tensor:
    return F.embedding_bag(
        index,
        table.contiguous(),
        offsets,
        mode="sum",
        per_sample_weights=None if weight is None else weight.contiguous(),
        include_last_offset=True,
    )


def _offsets(counts: Tensor) -> Tensor:
    return F.pad(counts.cumsum(0), (1, 0))


def _is_matching(in_degree: Tensor) -> bool:
    """Whether no node has two in-edges: then the softmax is 1 and attention is a copy."""
    return len(in_degree) == 0 or int(in_degree.max()) <= 1
