"""Simple recommenders to measure models against: random, most popular, item neighbours.

Each has ``fit(interactions)``, which returns the recommender itself, and is then a scorer: called
with user indices, int64 ``[B]``, it returns a score for every item, float32 ``[B, num_items]``.
"""

from __future__ import annotations

from typing import Self

import numpy as np
import torch
from scipy import sparse

from emorec.data.interactions import Interactions
from emorec.evaluation.ranking import seen_matrix

__all__ = ["ItemKNN", "MostPop", "Random"]


class Random:
    """Scores that say nothing: the chance level.

    The scores of a user depend on the seed and the user alone, not on who else is in the batch.

    Args:
        seed: Another seed, other lists.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def fit(self, interactions: Interactions) -> Self:
        """Notes the number of items."""
        self.num_items = interactions.num_items
        return self

    def __call__(self, users: torch.Tensor) -> torch.Tensor:
        """Uniform scores in [0, 1), float32 ``[B, num_items]``."""
        cell = users.cpu().numpy()[:, None] * self.num_items + np.arange(self.num_items)  # [B, I]
        bits = _splitmix64(cell.astype(np.uint64) + _splitmix64(np.array([self.seed], np.uint64)))
        # The upper 24 bits fill float32's mantissa without rounding up to 1.
        return torch.from_numpy((bits >> np.uint64(40)).astype(np.float32) / 2**24)


class MostPop:
    """Scores an item by its number of interactions, of any feedback and any user."""

    def fit(self, interactions: Interactions) -> Self:
        """Counts the interactions of each item; repeats of a pair count each time."""
        counts = np.bincount(interactions.item, minlength=interactions.num_items)
        self.popularity = torch.from_numpy(counts.astype(np.float32))  # [num_items]
        return self

    def __call__(self, users: torch.Tensor) -> torch.Tensor:
        """The same scores for each user, float32 ``[B, num_items]``, a read-only view."""
        return self.popularity.expand(len(users), -1)


class ItemKNN:
    r"""Scores an item by its similarity to the items of the user's history.

    Items are binary vectors over users, whatever the feedback. With n_i users who have item i and
    n_ij who have both,

        similarity(i, j) = n_ij / (sqrt(n_i n_j) + shrink)
        score(u, j) = sum over items i of u, with j among the ``neighbours`` most similar to i,
                      of similarity(i, j)

    An item is the first of its own neighbours, so ``neighbours - 1`` others are kept. Of items
    equally similar, lower indices come first.

    Args:
        neighbours: Similar items kept per item, itself included.
        shrink: Damps similarities that rest on few users; 0 is the cosine.
        chunk_size: Items compared at a time; memory grows with ``chunk_size * num_items``.

    References:
        M. Deshpande and G. Karypis, "Item-Based Top-N Recommendation Algorithms", ACM TOIS 22(1),
        2004.

    Raises:
        ValueError: If ``neighbours`` is below 2, ``shrink`` negative or ``chunk_size`` below 1.
    """

    def __init__(self, neighbours: int = 100, shrink: float = 0.0, chunk_size: int = 512) -> None:
        if neighbours < 2:
            raise ValueError(f"neighbours must be at least 2 (itself and one), got {neighbours}")
        if not shrink >= 0:
            raise ValueError(f"shrink must not be negative, got {shrink}")
        if chunk_size < 1:
            raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
        self.neighbours = neighbours
        self.shrink = shrink
        self.chunk_size = chunk_size

    def fit(self, interactions: Interactions) -> Self:
        """Finds the neighbours of every item."""
        self.history = seen_matrix(interactions)
        by_item = self.history.T.tocsr()  # [num_items, num_users]
        norms = np.sqrt(np.diff(by_item.indptr))
        parts = [
            self._nearest(by_item, norms, start)
            for start in range(0, interactions.num_items, self.chunk_size)
        ]
        empty = sparse.csr_matrix((0, interactions.num_items), dtype=np.float32)
        self.similarity = sparse.vstack([empty, *parts], format="csr")  # row i: neighbours of i
        return self

    def __call__(self, users: torch.Tensor) -> torch.Tensor:
        """Scores of the users' histories, float32 ``[B, num_items]``."""
        scores = self.history[users.cpu().numpy()] @ self.similarity
        return torch.from_numpy(scores.toarray())

    def _nearest(
        self, by_item: sparse.csr_matrix, norms: np.ndarray, start: int
    ) -> sparse.csr_matrix:
        stop = min(start + self.chunk_size, by_item.shape[0])
        common = by_item[start:stop] @ self.history  # n_ij, [C, num_items]
        rows = np.repeat(np.arange(stop - start), np.diff(common.indptr))
        columns = common.indices
        values = common.data / (norms[start + rows] * norms[columns] + self.shrink)
        order = np.lexsort((columns, -values, rows))
        rows, columns, values = rows[order], columns[order], values[order]
        first = np.searchsorted(rows, np.arange(stop - start))
        kept = np.arange(len(rows)) - first[rows] < self.neighbours
        return sparse.csr_matrix(
            (values[kept].astype(np.float32), (rows[kept], columns[kept])),
            shape=common.shape,
        )


def _splitmix64(values: np.ndarray) -> np.ndarray:
    """Well mixed 64-bit integers of a counter (Steele, Lea, Flood, OOPSLA 2014)."""
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
