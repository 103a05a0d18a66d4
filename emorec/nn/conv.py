"""Convolutions over events: SAGE and GAT, each with its own parameters per kind of feedback.

Both pass messages in two directions: from items to the nodes that events reach, and from those
nodes back to items, where the messages of all kinds are added. A node that nothing reaches gets
zeros: a relation that does not reach a node adds nothing to it, so neither has a bias.

Projections and sums over events are both linear. After a mean, a projection costs a product per
node that is reached: small graphs reach few nodes, but may draw on a large catalogue. It is left to
`emorec.ops.node_update`, together with what else becomes of a node. Before attention, a projection
shares a node's vector out to the heads, and any number of them gathers one vector per event.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from emorec.nn.aggregate import Adjacency
from emorec.ops.kind_product import kind_product

__all__ = ["GATConv", "KindLinear", "SAGEConv"]


class SAGEConv(nn.Module):
    """Mean of the neighbours, projected: ``m_v = W_k mean_{u in N(v)} h_u``, by the edges' weights.

    The usual term of the node itself belongs to the node, not to the relation: see
    `emorec.nn.graph_encoder.GraphEncoder`.

    Args:
        num_kinds: Kinds of feedback, ``R``.
        size: Width of nodes' vectors, ``D``.

    References:
        W. Hamilton, R. Ying, J. Leskovec: Inductive Representation Learning on Large Graphs,
        NeurIPS 2017, arXiv:1706.02216.
    """

    def __init__(self, num_kinds: int, size: int) -> None:
        super().__init__()
        self.project = nn.Parameter(torch.empty(num_kinds, size, size))
        _init_linear(self.project)

    def to_nodes(self, edges: Adjacency, items: Tensor) -> tuple[Tensor, Tensor]:
        """Sums that reach nodes and the maps that make them messages, for `node_update`.

        Args:
            edges: The events, from items to nodes.
            items: ``[I, D]``.

        Returns:
            ``[F, D]`` and, of each kind, ``[R, 1, D, D]``.
        """
        return edges.sum(items), self.project[:, None]

    def to_items(self, edges: Adjacency, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Sums that reach items, one per kind, and their maps, whose products are to be added.

        Args:
            edges: The events, from nodes to pairs of an item and a kind.
            nodes: ``[F, D]``.

        Returns:
            ``[I * R, D]`` and ``[1, R, D, D]``.
        """
        return edges.sum(nodes), self.project[None]


class GATConv(nn.Module):
    """Attention over the neighbours, concatenated over heads.

    With ``z_u = W_k h_u`` split into heads, per head and kind:

        e_uv = leaky_relu(<a_k, z_u> + <b_k, h_v>)
        m_v = sum_{u in N(v)} softmax_u(e_uv) z_u

    Args:
        num_kinds: Kinds of feedback, ``R``.
        size: Width of nodes' vectors, ``D``.
        num_heads: Heads, ``H``; ``D`` must be a multiple.

    Raises:
        ValueError: If ``size`` is not a multiple of ``num_heads``.

    References:
        P. Velickovic et al.: Graph Attention Networks, ICLR 2018, arXiv:1710.10903.
    """

    def __init__(self, num_kinds: int, size: int, num_heads: int = 1) -> None:
        super().__init__()
        if size % num_heads:
            raise ValueError(f"embedding size {size} is not a multiple of {num_heads} heads")
        width = size // num_heads
        self.project = nn.Parameter(torch.empty(num_kinds, num_heads, width, size))
        self.attend_source = nn.Parameter(torch.empty(num_kinds, num_heads, width))
        self.attend_target = nn.Parameter(torch.empty(num_kinds, num_heads, size))
        _init_linear(self.project)
        _init_linear(self.attend_target)
        for own in self.attend_source:
            nn.init.xavier_uniform_(own)

    def to_nodes(self, edges: Adjacency, items: Tensor, nodes: Tensor, sizes: list[int]) -> Tensor:
        """Messages from items to nodes.

        Args:
            edges: The events, from items to nodes.
            items: ``[I, D]``.
            nodes: Sorted by kind, ``[F, D]``.
            sizes: Nodes of each kind.

        Returns:
            ``[F, D]``.
        """
        num_kinds, num_heads, width, size = self.project.shape
        reached, edges = edges.among_reached
        items = items.index_select(0, reached)
        values = items @ self.project.view(-1, size).T  # of each kind
        left = _pair_logits(items, self._of_source())
        right = _node_logits(nodes, self.attend_target, sizes)
        return edges.attend(values.view(-1, num_heads, width), left, right).flatten(1)

    def to_items(self, edges: Adjacency, items: Tensor, nodes: Tensor, sizes: list[int]) -> Tensor:
        """Messages from nodes to items, added over kinds: ``[I, D]``; see `to_nodes`.

        ``edges`` lead from nodes to pairs of an item and a kind.
        """
        num_kinds, num_heads, width, size = self.project.shape
        values = kind_product(nodes, self.project.view(num_kinds, size, size), sizes)
        left = _node_logits(nodes, self._of_source(), sizes)
        right = _pair_logits(items, self.attend_target)
        messages = edges.attend(values.view(-1, num_heads, width), left, right)
        return messages.view(-1, num_kinds, size).sum(1)

    def _of_source(self) -> Tensor:
        """``a_k W_k``, ``[R, H, D]``: logits straight from the vectors."""
        return (self.attend_source[..., None] * self.project).sum(2)


class KindLinear(nn.Module):
    """A linear map per kind of feedback, ``W_k x_v + b_k``, which `node_update` applies.

    Args:
        num_kinds: Kinds, ``R``.
        size: Width of the vectors, ``D``.
        bias: Whether to add ``b``.

    Attributes:
        weight: ``W``, ``[R, D, D]``.
        bias: ``b``, ``[R, D]``, or None.
    """

    def __init__(self, num_kinds: int, size: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_kinds, size, size))
        self.bias = nn.Parameter(torch.empty(num_kinds, size)) if bias else None
        _init_linear(self.weight)
        if self.bias is not None:
            _init_linear(self.bias)


def _init_linear(parameter: nn.Parameter) -> None:
    """As `torch.nn.Linear` does."""
    bound = 1 / math.sqrt(parameter.shape[-1])
    nn.init.uniform_(parameter, -bound, bound)


def _pair_logits(items: Tensor, weight: Tensor) -> Tensor:
    """Logits of each item and kind by ``weight`` ``[R, H, D]``: ``[I * R, H]``."""
    return (items @ weight.flatten(0, 1).T).view(-1, weight.shape[1])


def _node_logits(nodes: Tensor, weight: Tensor, sizes: list[int]) -> Tensor:
    """Logits of nodes by their kind's ``weight`` ``[R, H, D]``: ``[F, H]``."""
    return kind_product(nodes, weight, sizes)
