"""Over-smoothing of a graph's vectors: how alike all have become, and how alike neighbours have.

A graph encoder mixes each vector with those of its neighbours, layer after layer, until the nodes
cannot be distinguished. Both measures go to 0 then.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["dirichlet_energy", "mean_average_distance"]


def mean_average_distance(vectors: Tensor) -> float:
    """Mean cosine distance over all pairs of vectors.

    ``MAD = 1 / (N (N - 1)) sum_{i != j} (1 - <h_i, h_j> / (|h_i| |h_j|))``

    With unit vectors ``u_i`` the sum is ``N (N - 1) + sum_i |u_i|^2 - |sum_i u_i|^2``, so that no
    pair is looked at. Chen et al. leave out pairs at distance 0, which would hide a collapse; here
    they count. A vector of zeros has no direction and is at distance 1 from all others.

    Args:
        vectors: ``[N, D]``, at least two.

    Returns:
        In [0, N / (N - 1)]: 0 where all point the same way, about 1 where directions are unrelated
        or cancel out; 2 only for two opposite vectors.

    Raises:
        ValueError: If there are fewer than two vectors, or one of them is not finite.

    References:
        D. Chen, Y. Lin, W. Li, P. Li, J. Zhou and X. Sun, "Measuring and Relieving the
        Over-smoothing Problem for Graph Neural Networks from the Topological View", AAAI 2020,
        arXiv:1909.03211.
    """
    _check(vectors)
    num = len(vectors)
    if num < 2:
        raise ValueError(f"vectors must be at least 2, or there is no pair, got {num}")
    unit = torch.nn.functional.normalize(vectors.double(), dim=1)
    alike = unit.sum(0).square().sum() - unit.square().sum()
    # Rounding must not carry equal vectors below 0.
    return max(0.0, 1 - float(alike) / (num * (num - 1)))


def dirichlet_energy(vectors: Tensor, node: Tensor, item: Tensor) -> float:
    """How much vectors differ between nodes that share items, relative to their lengths.

    With ``B_vi`` the events between node v and item i, ``d_v = sum_i B_vi``, ``c_i = sum_v B_vi``
    and two nodes as near as the items they share, the rarer the nearer,
    ``w_uv = sum_i B_ui B_vi / c_i``:

        E = sum_{u, v} w_uv |h_u - h_v|^2 / (2 sum_v d_v |h_v|^2)
          = 1 - sum_i |sum_v B_vi h_v|^2 / c_i / sum_v d_v |h_v|^2

    The second line is linear in the number of events. Scaling all vectors changes nothing, unlike
    in the original, so that layers and models can be compared.

    Args:
        vectors: Vectors of nodes of one type, ``[N, D]``.
        node: Node of each event, int64 ``[E]``.
        item: Item of each event, int64 ``[E]``.

    Returns:
        In [0, 1]: 0 where nodes joined by any chain of shared items have equal vectors, near 1
        where vectors have nothing to do with the graph, 1 where those that share an item cancel
        out. Nodes without events play no part.

    Raises:
        ValueError: If a vector is not finite, the events are not given as two lists of one length
            or name a node that is not there or an item below 0, or all vectors with events are 0.

    References:
        C. Cai and Y. Wang, "A Note on Over-Smoothing for Graph Neural Networks", ICML 2020
        workshop on Graph Representation Learning and Beyond, arXiv:2006.13318.
    """
    _check(vectors)
    if node.ndim != 1 or node.shape != item.shape:
        raise ValueError(f"node and item must be [E], got {list(node.shape)}, {list(item.shape)}")
    for name, index, limit in (("node", node, len(vectors)), ("item", item, None)):
        wrong = index[(index < 0) | (index >= limit if limit is not None else False)]
        if len(wrong):
            rows = "at least 0" if limit is None else f"in 0 .. {limit - 1}"
            raise ValueError(f"{name} must be {rows}, got {int(wrong[0])}")
    h = vectors.double()
    lengths = h.square().sum(1)[node].sum()
    if not lengths > 0:
        raise ValueError("all vectors of nodes with events are 0, which have no relative energy")
    num_items = int(item.max()) + 1
    sums = h.new_zeros(num_items, h.shape[1]).index_add(0, item, h[node])
    counts = torch.bincount(item, minlength=num_items).clamp(min=1)
    alike = (sums.square().sum(1) / counts).sum()
    return min(1.0, max(0.0, 1 - float(alike / lengths)))  # rounding must not leave the range


def _check(vectors: Tensor) -> None:
    if vectors.ndim != 2:
        raise ValueError(f"vectors must be [N, D], got {list(vectors.shape)}")
    if not torch.isfinite(vectors).all():
        row = int((~torch.isfinite(vectors)).any(1).nonzero()[0])
        raise ValueError(f"vector {row} is not finite")
