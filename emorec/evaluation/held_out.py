"""Held-out items: distinct pairs of user and item, with the last feedback."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from emorec.data.feedback import Feedback
from emorec.data.interactions import Interactions

__all__ = ["UNKNOWN", "HeldOut"]

UNKNOWN = -1
"""Stands for the feedback of an item that a user has no held-out interaction with."""


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Distinct held-out pairs, by user, then item.

    Attributes:
        user: User indices, int64 ``[P]``.
        item: Item indices, int64 ``[P]``.
        feedback: `Feedback` values, int8 ``[P]``.
        num_users: Size of the user vocabulary.
        num_items: Size of the item vocabulary.
    """

    user: np.ndarray
    item: np.ndarray
    feedback: np.ndarray
    num_users: int
    num_items: int

    @classmethod
    def of(cls, test: Interactions) -> HeldOut:
        """The pairs of a hold-out.

        A pair that occurs more than once is one held-out item, with the feedback of its last event
        (by time; rows of equal time in the order of the log).
        """
        order = np.lexsort((test.time, test.item, test.user))
        rows = test.select(order)
        changes = (rows.user[1:] != rows.user[:-1]) | (rows.item[1:] != rows.item[:-1])
        last = rows.select(np.append(changes, True)[: len(rows)])
        return cls(last.user, last.item, last.feedback, test.num_users, test.num_items)

    @property
    def is_positive(self) -> np.ndarray:
        """Whether each pair's feedback is positive, bool ``[P]``."""
        return self.feedback <= Feedback.IMPLICIT_POSITIVE

    def counts(self) -> np.ndarray:
        """Held-out items of each user and kind of feedback, int64 ``[num_users, 4]``."""
        kinds = len(Feedback)
        flat = np.bincount(self.user * kinds + self.feedback, minlength=self.num_users * kinds)
        return flat.reshape(self.num_users, kinds)

    def feedback_on(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """The held-out feedback of users on the items of their lists.

        Args:
            users: User indices, int64 ``[U]``.
            items: Item indices, int64 ``[U, k]``; -1 for an empty place.

        Returns:
            `Feedback` values, int64 ``[U, k]``, `UNKNOWN` where the item is not held out.
        """
        pairs = self.user * self.num_items + self.item
        # An empty place, as part of a key, would stand for another user's last item.
        wanted = np.where(items >= 0, users[:, None] * self.num_items + items, -1)
        place = np.searchsorted(pairs, wanted)
        found = np.append(pairs, -2)[place] == wanted
        return np.where(found, np.append(self.feedback, UNKNOWN)[place], UNKNOWN).astype(np.int64)
