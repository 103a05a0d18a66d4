"""Ranking metrics per user, from which places of a top-k list hold relevant items.

Every function takes the same two tensors and returns one value per user:

* ``hits`` ``[U, k]``, bool: whether the item at rank r (column r - 1, best first) is relevant;
* ``num_relevant`` ``[U]``, integer: how many relevant hold-out items the user has, listed or not.

Values are float64 in [0, 1]. A user without a relevant item has no defined value and gets NaN:
leave such users out of means (``torch.nanmean``) and say how many there were.
"""

from __future__ import annotations

import torch

__all__ = ["average_precision", "hit_rate", "ndcg", "precision", "recall", "reciprocal_rank"]


def recall(hits: torch.Tensor, num_relevant: torch.Tensor) -> torch.Tensor:
    """Share of the user's relevant items that the list holds: ``hits / num_relevant``.

    The divisor is not cut to k, so a user with more than k relevant items cannot reach 1.

    Args:
        hits: Whether each rank holds a relevant item, bool ``[U, k]``.
        num_relevant: Relevant items of each user, integer ``[U]``.

    Returns:
        float64 ``[U]``; 0 where nothing was hit, NaN where ``num_relevant`` is 0.

    Raises:
        ValueError: If the shapes or types are wrong, or a user has more hits than relevant items.
    """
    _check(hits, num_relevant)
    return _nan_without_relevant(hits.sum(dim=1).double() / num_relevant, num_relevant)


def precision(hits: torch.Tensor, num_relevant: torch.Tensor) -> torch.Tensor:
    """Share of the list's k places that hold a relevant item: ``hits / k``.

    The divisor is k even where the list is shorter because there are fewer candidates.

    Args:
        hits: Whether each rank holds a relevant item, bool ``[U, k]``.
        num_relevant: Relevant items of each user, integer ``[U]``.

    Returns:
        float64 ``[U]``; 0 where nothing was hit, NaN where ``num_relevant`` is 0.

    Raises:
        ValueError: If the shapes or types are wrong, or a user has more hits than relevant items.
    """
    _check(hits, num_relevant)
    return _nan_without_relevant(hits.double().mean(dim=1), num_relevant)


def hit_rate(hits: torch.Tensor, num_relevant: torch.Tensor) -> torch.Tensor:
    """Whether the list holds any relevant item: 1 or 0.

    Args:
        hits: Whether each rank holds a relevant item, bool ``[U, k]``.
        num_relevant: Relevant items of each user, integer ``[U]``.

    Returns:
        float64 ``[U]``; NaN where ``num_relevant`` is 0.

    Raises:
        ValueError: If the shapes or types are wrong, or a user has more hits than relevant items.
    """
    _check(hits, num_relevant)
    return _nan_without_relevant(hits.any(dim=1).double(), num_relevant)


def reciprocal_rank(hits: torch.Tensor, num_relevant: torch.Tensor) -> torch.Tensor:
    """One over the rank of the first relevant item; its mean over users is MRR.

    Args:
        hits: Whether each rank holds a relevant item, bool ``[U, k]``.
        num_relevant: Relevant items of each user, integer ``[U]``.

    Returns:
        float64 ``[U]``; 0 where the list holds no relevant item, NaN where ``num_relevant`` is 0.

    Raises:
        ValueError: If the shapes or types are wrong, or a user has more hits than relevant items.

    References:
        E. M. Voorhees, "The TREC-8 Question Answering Track Report", TREC 1999.
    """
    _check(hits, num_relevant)
    return _nan_without_relevant((hits / _ranks(hits)).amax(dim=1), num_relevant)


def average_precision(hits: torch.Tensor, num_relevant: torch.Tensor) -> torch.Tensor:
    """Precision at each hit, summed and divided by the relevant items; its mean is MAP.

    ``sum over ranks r with a hit of (hits in the first r places) / r``, over ``num_relevant``,
    which is not cut to k: a user with more than k relevant items cannot reach 1.

    Args:
        hits: Whether each rank holds a relevant item, bool ``[U, k]``.
        num_relevant: Relevant items of each user, integer ``[U]``.

    Returns:
        float64 ``[U]``; 0 where nothing was hit, NaN where ``num_relevant`` is 0.

    Raises:
        ValueError: If the shapes or types are wrong, or a user has more hits than relevant items.

    References:
        C. Buckley and E. M. Voorhees, "Evaluating Evaluation Measure Stability", SIGIR 2000.
    """
    _check(hits, num_relevant)
    precisions = hits.cumsum(dim=1) / _ranks(hits)  # [U, k]
    return _nan_without_relevant((precisions * hits).sum(dim=1) / num_relevant, num_relevant)


def ndcg(hits: torch.Tensor, num_relevant: torch.Tensor) -> torch.Tensor:
    """Discounted gain of the hits over that of a list of k hits.

    ``sum over ranks r with a hit of 1 / log2(1 + r)``, over the same sum over all ranks 1 .. k.
    The ideal list always has k hits, also for a user with fewer relevant items, who then cannot
    reach 1. Many libraries cut the ideal to ``min(k, num_relevant)`` and report higher values.

    Args:
        hits: Whether each rank holds a relevant item, bool ``[U, k]``.
        num_relevant: Relevant items of each user, integer ``[U]``.

    Returns:
        float64 ``[U]``; 0 where nothing was hit, NaN where ``num_relevant`` is 0.

    Raises:
        ValueError: If the shapes or types are wrong, or a user has more hits than relevant items.

    References:
        K. Järvelin and J. Kekäläinen, "Cumulated Gain-Based Evaluation of IR Techniques",
        ACM TOIS 20(4), 2002.
    """
    _check(hits, num_relevant)
    gains = 1 / torch.log2(1 + _ranks(hits))  # [k]
    # Rounding must not lift a full list above 1.
    share = (hits * gains).sum(dim=1) / gains.sum()
    return _nan_without_relevant(share.clamp(max=1), num_relevant)


def _ranks(hits: torch.Tensor) -> torch.Tensor:
    return torch.arange(1, hits.shape[1] + 1, dtype=torch.float64, device=hits.device)


def _nan_without_relevant(values: torch.Tensor, num_relevant: torch.Tensor) -> torch.Tensor:
    return values.masked_fill(num_relevant == 0, torch.nan)


def _check(hits: torch.Tensor, num_relevant: torch.Tensor) -> None:
    if hits.ndim != 2 or hits.dtype != torch.bool or hits.shape[1] == 0:
        raise ValueError(
            f"hits must be bool [U, k] with k >= 1, got {hits.dtype} {list(hits.shape)}"
        )
    if num_relevant.shape != hits.shape[:1]:
        raise ValueError(
            f"num_relevant must be [U] = [{hits.shape[0]}], got {list(num_relevant.shape)}"
        )
    if num_relevant.is_floating_point() or num_relevant.dtype == torch.bool:
        raise ValueError(f"num_relevant must be integer, got {num_relevant.dtype}")
    over = hits.sum(dim=1) > num_relevant
    if over.any():
        row = int(over.nonzero()[0])
        raise ValueError(
            f"row {row}: {int(hits[row].sum())} hits but {int(num_relevant[row])} relevant items; "
            "the list repeats an item or the counts belong to other users"
        )
