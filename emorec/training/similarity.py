"""Similarities between items, counted in a log."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from emorec.baselines.neighbours import (
    REGULARIZATION,
    largest_of_rows,
    nearest_items,
    neighbour_weights,
)
from emorec.data.interactions import Interactions
from emorec.evaluation.top_k import seen_matrix

__all__ = ["MOST_ITEMS", "newest_items", "similar_items"]

MOST_ITEMS = 5_000
"""Items of a user that count in similarities, the newest: n items are n^2 pairs."""

_ROWS = 2**16  # added at a time


def similar_items(log: Interactions, num_similar: int, progress: bool = False) -> sparse.csr_matrix:
    """Counts how similar items are: cosine similarity plus regression weights.

        S_ij = cosine_ij / a + W_ij / b

    The cosine measures how many users two items share. The weights ``W`` of
    `emorec.baselines.RidgeKNN` measure what an item adds to the prediction from the others. ``a``
    and ``b`` put both on one scale: they are the means over items of the largest entry of a row.

    Of a user with more than 5,000 different items, the 5,000 newest count (`MOST_ITEMS`). Memory
    is bounded, apart from the log and the similar items of all items;
    `emorec.baselines.neighbours` has what it costs.

    Args:
        log: The events to count.
        num_similar: Items kept per item, ``N``, beside itself.
        progress: Whether to show progress bars.

    Returns:
        CSR ``[I, I]``: row ``i`` holds the at most ``N + 1`` entries of largest size.
    """
    history = seen_matrix(newest_items(log, MOST_ITEMS))
    cosine = nearest_items(history, num_similar + 1, progress=progress)
    weights = neighbour_weights(history, cosine, REGULARIZATION, progress)
    a, b = _mean_largest(cosine), _mean_largest(weights)
    parts = [sparse.csr_matrix((0, log.num_items), dtype=np.float32)]
    for start in range(0, log.num_items, _ROWS):
        rows = slice(start, start + _ROWS)
        parts.append(largest_of_rows(cosine[rows] / a + weights[rows] / b, num_similar + 1))
    return sparse.vstack(parts, format="csr")


def newest_items(log: Interactions, most: int) -> Interactions:
    """The events of each user with the ``most`` different items that the user has seen last."""
    is_long = (np.bincount(log.user, minlength=log.num_users) > most)[log.user]
    if not is_long.any():
        return log
    busy = log.select(is_long)
    newest_first = busy.chronological()[::-1]
    user, item = busy.user[newest_first], busy.item[newest_first]
    cell = user * log.num_items + item
    _, first, which = np.unique(cell, return_index=True, return_inverse=True)
    is_first = np.zeros(len(cell), np.int64)
    is_first[first] = 1
    place = np.cumsum(is_first)  # of the last event of each pair among all of the users
    newer = place - place[np.searchsorted(-user, -user)]  # users descend, each starts with 1
    kept = np.zeros(len(cell), bool)
    kept[newest_first] = newer[first][which] < most
    is_kept = ~is_long
    is_kept[is_long] = kept
    return log.select(is_kept)


def _mean_largest(matrix: sparse.csr_matrix) -> float:
    """The mean over rows of the largest entry, or 1 if that is not positive."""
    largest = matrix.max(axis=1).toarray().mean() if matrix.nnz else 0
    return largest if largest > 0 else 1
