"""Popularity and coverage: which items lists consist of, whoever likes them."""

from __future__ import annotations

import numpy as np

__all__ = ["gini", "popularity_of_lists"]

_POPULAR = 0.1  # share of the catalogue that counts as popular


def popularity_of_lists(listed: np.ndarray, popularity: np.ndarray) -> dict[str, float]:
    """How much of the catalogue is listed, and how popular that is.

    Popular items are the tenth of the catalogue (rounded up) with the most events; of items with
    equally many events, those of lower index.

    Args:
        listed: Items of all lists, int64 of any shape; -1 for an empty place. Held-out items can
            be given likewise, for comparison.
        popularity: Number of events of each item before the hold-out, ``[I]``.

    Returns:
        "coverage", the share of the catalogue that is in any list; "popular_share", the share of
        the lists' places that popular items take; "popularity_rank", the mean over places of the
        item's rank by popularity, as a share of the catalogue: 0 for the most popular item, 1 for
        the least; and "gini", see `gini`, of the number of lists that each item is in. All are in
        [0, 1], and NaN if no list has an item.

    Raises:
        ValueError: If there are no items, or a listed item is out of range.
    """
    num_items = len(popularity)
    if not num_items:
        raise ValueError("popularity is empty: the catalogue has no items")
    items = np.asarray(listed).ravel()
    items = items[items != -1]
    if len(items) and not 0 <= items.min() <= items.max() < num_items:
        wrong = items[(items < 0) | (items >= num_items)][0]
        raise ValueError(f"item {wrong} is out of range, must be in 0 .. {num_items - 1}, or -1")
    if not len(items):
        return dict.fromkeys(("coverage", "popular_share", "popularity_rank", "gini"), float("nan"))
    rank = np.empty(num_items, dtype=np.int64)
    rank[np.argsort(-np.asarray(popularity), kind="stable")] = np.arange(num_items)
    times = np.bincount(items, minlength=num_items)
    return {
        "coverage": float((times > 0).mean()),
        "popular_share": float((rank[items] < np.ceil(_POPULAR * num_items)).mean()),
        "popularity_rank": float(rank[items].mean() / max(1, num_items - 1)),
        "gini": gini(times),
    }


def gini(counts: np.ndarray) -> float:
    """Gini coefficient: how unevenly a total is spread.

        sum_i (2 i - n - 1) c_i / (n sum_i c_i),    c_1 <= ... <= c_n

    Args:
        counts: Non-negative numbers, ``[N]``.

    Returns:
        0 if all are equal, ``1 - 1 / N`` if one has everything; NaN if their sum is 0.
    """
    ordered = np.sort(np.asarray(counts, dtype=np.float64))
    number, total = len(ordered), ordered.sum()
    if not total:
        return float("nan")
    place = 2 * np.arange(1, number + 1) - number - 1
    return float((place * ordered).sum() / (number * total))
