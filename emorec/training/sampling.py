"""Items to compare a target with: sampled unobserved ones and observed dislikes."""

from __future__ import annotations

import numpy as np

from emorec.data.feedback import Feedback
from emorec.data.sequences import EventSequences
from emorec.processes import ALONE, World
from emorec.training.shares import summed

__all__ = ["ItemSampler"]


class ItemSampler:
    """Draws, for each given user, items that should score below the user's target.

    Args:
        events: The train events.
        candidates: Items to draw from, int64 ``[C]``.
        num_items: Size of the catalogue.
        observed_share: Probability that a draw is one of the user's own negative events; users
            without any get unobserved items.
        world: The processes, each of which has events of its own users; all must draw the same.
    """

    ROUNDS = 20  # only users who have seen nearly the whole catalogue fail in all of them

    def __init__(
        self,
        events: EventSequences,
        candidates: np.ndarray,
        num_items: int,
        observed_share: float = 0.0,
        world: World = ALONE,
    ) -> None:
        user = np.repeat(np.arange(events.num_users), events.lengths)
        seen = np.unique(user * num_items + events.item)
        self._seen = np.append(seen, np.iinfo(np.int64).max)  # no key is found past the end
        self._candidates, self._num_items, self._observed_share = (
            candidates,
            num_items,
            observed_share,
        )
        negative = events.feedback > Feedback.IMPLICIT_POSITIVE
        self._disliked = events.item[negative]
        counts = np.bincount(user[negative], minlength=events.num_users)
        self._disliked_start, self._own_disliked = np.cumsum(counts) - counts, counts
        self._disliked_count, self._world = summed(world, counts), world

    def sample(
        self, user: np.ndarray, size: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draws ``size`` items per entry of ``user``.

        Returns:
            Items ``[T, size]`` int64, and whether each is valid ``[T, size]`` bool: it is not where
            no unobserved item was found. Of other processes' users, dislikes are not looked up.
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
            seen[use] = False
            mine = self._own_disliked[owner[use]] > 0
            own, pick = np.flatnonzero(use)[mine], pick[mine]
            items[own] = self._disliked[self._disliked_start[owner[own]] + pick]
        return items.reshape(len(user), size), ~seen.reshape(len(user), size)

    def _is_seen(self, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        key = user * self._num_items + item
        found = self._seen[np.searchsorted(self._seen, key)] == key
        return summed(self._world, found.astype(np.uint8)) > 0
