"""Items to compare a target with: sampled unobserved ones and observed dislikes."""

from __future__ import annotations

import numpy as np

from emorec.data.feedback import Feedback
from emorec.data.sequences import EventSequences

__all__ = ["ItemSampler"]


class ItemSampler:
    """Draws, for each given user, items that should score below the user's target.

    Args:
        events: The train events.
        candidates: Items to draw from, int64 ``[C]``.
        num_items: Size of the catalogue.
        observed_share: Probability that a draw is one of the user's own negative events; users
            without any get unobserved items.
    """

    ROUNDS = 20  # only users who have seen nearly the whole catalogue fail in all of them

    def __init__(
        self,
        events: EventSequences,
        candidates: np.ndarray,
        num_items: int,
        observed_share: float = 0.0,
    ) -> None:
        user = np.repeat(np.arange(events.num_users), events.lengths)
        self._seen = np.unique(user * num_items + events.item)
        self._candidates, self._num_items, self._observed_share = (
            candidates,
            num_items,
            observed_share,
        )
        negative = events.feedback > Feedback.IMPLICIT_POSITIVE
        self._disliked = events.item[negative]
        counts = np.bincount(user[negative], minlength=events.num_users)
        self._disliked_start, self._disliked_count = np.cumsum(counts) - counts, counts

    def sample(
        self, user: np.ndarray, size: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draws ``size`` items per entry of ``user``.

        Returns:
            Items ``[T, size]`` int64, and whether each is valid ``[T, size]`` bool: it is not where
            no unobserved item was found.
        """
        owner = np.repeat(user, size)
        items = self._candidates[rng.integers(len(self._candidates), size=len(owner))]
        seen = self._is_seen(owner, items)
        for _ in range(self.ROUNDS):
            again = np.flatnonzero(seen)
            if not len(again):
                break
            items[again] = self._candidates[rng.integers(len(self._candidates), size=len(again))]
            seen[again] = self._is_seen(owner[again], items[again])
        if self._observed_share:
            use = (rng.random(len(owner)) < self._observed_share) & (
                self._disliked_count[owner] > 0
            )
            pick = (rng.random(use.sum()) * self._disliked_count[owner[use]]).astype(np.int64)
            items[use] = self._disliked[self._disliked_start[owner[use]] + pick]
            seen[use] = False
        return items.reshape(-1, size), ~seen.reshape(-1, size)

    def _is_seen(self, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        key = user * self._num_items + item
        place = np.minimum(np.searchsorted(self._seen, key), len(self._seen) - 1)
        return self._seen[place] == key
