"""Convolutions over one relation: SAGE and GAT.

Both give a message to each target node that has an in-edge, and zeros to the others: a relation
that does not reach a node says nothing to it, so neither has a bias.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from emorec.nn.aggregate import Adjacency

__all__ = ["GATConv", "SAGEConv"]


class SAGEConv(nn.Module):
    """Mean of the neighbours, projected: ``m_v = W mean_{u in N(v)} h_u``.

    The usual term of the node itself belongs to the node type, not to the relation: see
    `emorec.nn.graph_encoder.GraphEncoder`.

    Args:
        size: Width of nodes' vectors, ``D``.

    References:
        W. Hamilton, R. Ying, J. Leskovec: Inductive Representation Learning on Large Graphs,
        NeurIPS 2017, arXiv:1706.02216.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.project = nn.Linear(size, size, bias=False)

    def forward(self, adjacency: Adjacency, source: Tensor, target: Tensor) -> Tensor:
        """Messages along the edges.

        Args:
            adjacency: The relation's edges.
            source: Vectors of the source nodes, ``[U, D]``.
            target: Vectors of the target nodes, ``[V, D]``; not used.

        Returns:
            ``[V, D]``.
        """
        return self.project(adjacency.mean(source))


class GATConv(nn.Module):
    """Attention over the neighbours, concatenated over heads.

    With ``z_u = W h_u`` split into heads, per head:

        e_uv = leaky_relu(<a, z_u> + <b, h_v>)
        m_v = sum_{u in N(v)} softmax_u(e_uv) z_u

    Args:
        size: Width of nodes' vectors, ``D``.
        num_heads: Heads; ``D`` must be a multiple.

    Raises:
        ValueError: If ``size`` is not a multiple of ``num_heads``.

    References:
        P. Velickovic et al.: Graph Attention Networks, ICLR 2018, arXiv:1710.10903.
    """

    def __init__(self, size: int, num_heads: int = 1) -> None:
        super().__init__()
        if size % num_heads:
            raise ValueError(f"embedding size {size} is not a multiple of {num_heads} heads")
        self.num_heads = num_heads
        self.project = nn.Linear(size, size, bias=False)
        self.attend_source = nn.Parameter(torch.empty(num_heads, size // num_heads))
        self.attend_target = nn.Linear(size, num_heads, bias=False)
        nn.init.xavier_uniform_(self.attend_source)

    def forward(self, adjacency: Adjacency, source: Tensor, target: Tensor) -> Tensor:
        """Messages along the edges.

        Args:
            adjacency: The relation's edges.
            source: Vectors of the source nodes, ``[U, D]``.
            target: Vectors of the target nodes, ``[V, D]``.

        Returns:
            ``[V, D]``.
        """
        z = self.project(source).unflatten(1, (self.num_heads, -1))  # [U, H, D / H]
        left = (z * self.attend_source).sum(-1)  # [U, H]
        return adjacency.attend(z, left, self.attend_target(target)).flatten(1)
