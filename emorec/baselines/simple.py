"""Simple baselines: random scores, popularity, and the item prior.

Each has ``fit(interactions)``, which returns the recommender itself, and is then a scorer: called
with user indices, int64 ``[B]``, it returns a score for every item, float32 ``[B, num_items]``.
"""

from __future__ import annotations

from typing import Self

import numpy as np
import torch

from emorec.baselines.item_models import EASE, ItemKNN, RidgeKNN
from emorec.data.interactions import Interactions

__all__ = ["EASE", "ItemKNN", "ItemPrior", "MostPop", "Random", "RidgeKNN"]


class Random:
    """Uniform random scores: chance level.

    The scores of a user depend on the seed and the user alone, not on who else is in the batch.

    Args:
        seed: Seed of the scores.
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
        return torch.from_numpy((bits >> np.uint64(40)).astype(np.float32) / np.float32(2**24))


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


class ItemPrior:
    """Predicts P(positive) by the item prior, an item's smoothed share of positive feedback.

        (n_i+ + few * f) / (n_i + few)

    with ``n_i`` events of item ``i``, ``n_i+`` of them positive, and the log's share ``f`` of
    positive events. The prediction is the same for all users.

    Args:
        few: Weight of the share of the whole log, in events, at least 0.

    Raises:
        ValueError: If ``few`` is negative.
    """

    def __init__(self, few: float = 10.0) -> None:
        if not few >= 0:
            raise ValueError(f"few must be at least 0, got {few}")
        self.few = few

    def fit(self, interactions: Interactions) -> Self:
        """Counts; an item without events has the log's share, and an empty log 1/2."""
        size = interactions.num_items
        count = np.bincount(interactions.item, minlength=size)
        positive = np.bincount(interactions.item[interactions.is_positive], minlength=size)
        share = positive.sum() / count.sum() if count.any() else 0.5
        known = count + self.few > 0
        mean = np.full(size, share)
        mean[known] = (positive + self.few * share)[known] / (count + self.few)[known]
        self.mean = torch.from_numpy(mean.astype(np.float32))  # [num_items]
        return self

    def __call__(self, users: torch.Tensor) -> torch.Tensor:
        """The same probabilities for each user, float32 ``[B, num_items]``, a read-only view."""
        return self.mean.expand(len(users), -1)


def _splitmix64(values: np.ndarray) -> np.ndarray:
    """Well mixed 64-bit integers of a counter (Steele, Lea, Flood, OOPSLA 2014)."""
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
