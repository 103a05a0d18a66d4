"""Interactions: the table of events that all other modules take."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from emorec.data.feedback import Feedback
from emorec.data.vocabulary import Vocabulary

__all__ = [
    "Interactions",
    "TICKS_PER_DAY",
    "TimeUnit",
    "contains",
    "is_repeated",
    "k_core",
    "occurs",
    "require_choice",
]

TimeUnit = Literal["none", "s", "ms", "us", "ns"]
TICKS_PER_DAY: dict[str, int] = {
    "none": 1,
    "s": 86_400,
    "ms": 86_400 * 10**3,
    "us": 86_400 * 10**6,
    "ns": 86_400 * 10**9,
}
# Odd and without a pattern in its bits, so that few different rows are mixed to the same number.
_MULTIPLIER = np.int64(0x2545F4914F6CDD1D)
_COLUMNS = ("user", "item", "feedback", "time")


@dataclass(frozen=True, eq=False)
class Interactions:
    """User-item records in the order of the log; repeats of a pair are separate events.

    Attributes:
        user: User indices, int64 ``[N]``.
        item: Item indices, int64 ``[N]``.
        feedback: Kinds of feedback as `Feedback` values, int8 ``[N]``.
        time: When it happened, int64 ``[N]``, in ``time_unit`` since the epoch.
        users: External ids of users.
        items: External ids of items.
        time_unit: "s", "ms", "us" or "ns"; or "none" for a log without times, which are all 0
            then: the order of its rows is the order of events.

    Raises:
        ValueError: If the columns differ in length, hold anything but whole numbers, or an index
            or kind is out of range.
    """

    user: np.ndarray
    item: np.ndarray
    feedback: np.ndarray
    time: np.ndarray
    users: Vocabulary
    items: Vocabulary
    time_unit: TimeUnit = "s"

    def __post_init__(self) -> None:
        for name in _COLUMNS:
            column = _whole_numbers(name, getattr(self, name))
            if len(column) != len(self.user):
                raise ValueError(
                    f"column {name!r} has {len(column)} rows, user has {len(self.user)}"
                )
            object.__setattr__(self, name, column)
        _check_range("user", self.user, len(self.users))
        _check_range("item", self.item, len(self.items))
        _check_range("feedback", self.feedback, len(Feedback))
        object.__setattr__(self, "feedback", self.feedback.astype(np.int8))
        if self.time_unit not in TICKS_PER_DAY:
            units = ", ".join(map(repr, TICKS_PER_DAY))
            raise ValueError(f"time_unit must be one of {units}, got {self.time_unit!r}")
        if self.time_unit == "none" and self.time.any():
            raise ValueError("time must be 0 in every row, as time_unit is 'none'")

    @classmethod
    def from_columns(
        cls, user: Any, item: Any, feedback: Any, time: Any, time_unit: TimeUnit = "s"
    ) -> Interactions:
        """Builds interactions from columns of external ids.

        Args:
            user: External user ids ``[N]``, integers or strings.
            item: External item ids ``[N]``, integers or strings.
            feedback: `Feedback` values ``[N]``.
            time: Integer times ``[N]`` in ``time_unit``.
            time_unit: As the attribute.
        """
        users, user_index = Vocabulary.fit(user)
        items, item_index = Vocabulary.fit(item)
        return cls(user_index, item_index, feedback, time, users, items, time_unit)

    @property
    def num_users(self) -> int:
        """Size of the user vocabulary, users without a row included."""
        return len(self.users)

    @property
    def num_items(self) -> int:
        """Size of the item vocabulary, items without a row included."""
        return len(self.items)

    @property
    def is_positive(self) -> np.ndarray:
        """Whether each row's feedback is positive, bool ``[N]``."""
        return self.feedback <= Feedback.IMPLICIT_POSITIVE

    def select(self, rows: np.ndarray) -> Interactions:
        """The given rows (a mask or indices), with the same vocabularies."""
        return replace(
            self,
            user=self.user[rows],
            item=self.item[rows],
            feedback=self.feedback[rows],
            time=self.time[rows],
        )

    def of_users(self, users: np.ndarray) -> Interactions:
        """The rows of the given users, indices int64 ``[U]``, with the same vocabularies."""
        wanted = np.zeros(self.num_users, dtype=bool)
        wanted[users] = True
        return self.select(wanted[self.user])

    def without_users(self, ids: Iterable[Any]) -> Interactions:
        """The log without the rows and the ids of some users, by external ids."""
        gone = self.users.indices(ids)
        is_kept = np.ones(self.num_users, dtype=bool)
        is_kept[gone[gone >= 0]] = False
        rows = self.select(is_kept[self.user])
        users = self.users.subset(np.flatnonzero(is_kept))
        return replace(rows, user=(np.cumsum(is_kept) - 1)[rows.user], users=users)

    def joined_with(self, *others: Interactions) -> Interactions:
        """The rows of this log, then those of others that share its vocabularies."""
        logs = (self, *others)
        return replace(
            self,
            user=np.concatenate([log.user for log in logs]),
            item=np.concatenate([log.item for log in logs]),
            feedback=np.concatenate([log.feedback for log in logs]),
            time=np.concatenate([log.time for log in logs]),
        )

    def followed_by(
        self, later: Interactions, new_users: bool = True, new_items: bool = False
    ) -> Interactions:
        """This log, then the rows of another one that it does not have, by external ids.

        New users and items get the next indices; the indices of all others stay. Times take the
        finer unit of the two, so that none loses its order. In a log without times the later rows
        come last, oldest first.

        Args:
            later: The other log, in any order and unit of time.
            new_users: False: leave rows of users out that are not in the vocabulary.
            new_items: False: leave rows of items out that are not in the vocabulary.

        Raises:
            ValueError: If this log has times and the other one has none, or times do not fit the
                finer unit.
        """
        own, later = _in_one_unit(self, later)
        user = own.users.indices(later.users.ids)[later.user]
        item = own.items.indices(later.items.ids)[later.item]
        is_kept = ((user >= 0) | new_users) & ((item >= 0) | new_items)
        later, user, item = later.select(is_kept), user[is_kept], item[is_kept]
        users, user = _extended(own.users, user, later.users, later.user)
        items, item = _extended(own.items, item, later.items, later.item)
        own = replace(own, users=users, items=items)
        added = Interactions(user, item, later.feedback, later.time, users, items, own.time_unit)
        same_users = own.of_users(added.user)  # no other row can be one of the added ones
        both = same_users.joined_with(added)
        is_known = is_repeated(*(getattr(both, name) for name in _COLUMNS))[len(same_users) :]
        return own.joined_with(added.select(~is_known))

    def in_unit(self, unit: TimeUnit) -> Interactions:
        """The same rows with times in a unit that is as fine or finer.

        Raises:
            ValueError: If a time does not fit int64 then.
        """
        factor = TICKS_PER_DAY[unit] // TICKS_PER_DAY[self.time_unit]
        largest = int(np.abs(self.time).max(initial=0))
        if largest > (2**63 - 1) // factor:
            raise ValueError(
                f"the time {largest} {self.time_unit} is too late to be counted in {unit}; "
                "give both logs times of one unit"
            )
        return replace(self, time=self.time * factor, time_unit=unit)

    def reindexed(self) -> Interactions:
        """The same rows with vocabularies that hold just the users and items that occur."""
        has_user, has_item = occurs(self.user, self.num_users), occurs(self.item, self.num_items)
        return replace(
            self,
            user=(np.cumsum(has_user) - 1)[self.user],
            item=(np.cumsum(has_item) - 1)[self.item],
            users=self.users.subset(np.flatnonzero(has_user)),
            items=self.items.subset(np.flatnonzero(has_item)),
        )

    def chronological(self) -> np.ndarray:
        """Row order by user, then time, int64 ``[N]``; ties keep the order of the log."""
        rows = len(self)
        if rows * self.num_users >= 2**63:
            return np.lexsort((self.time, self.user))
        order = np.argsort(self.time, kind="stable")
        # By user, then place in time: numbers without ties sort several times faster than rows.
        key = self.user[order] * rows + np.arange(rows)
        key.sort()
        key %= max(rows, 1)
        return order[key]

    def feedback_counts(self) -> dict[Feedback, int]:
        """Rows per kind of feedback."""
        counts = np.bincount(self.feedback, minlength=len(Feedback))
        return {kind: int(counts[kind]) for kind in Feedback}

    def __len__(self) -> int:
        return len(self.user)

    def __repr__(self) -> str:
        return (
            f"Interactions({len(self):,} rows, {self.num_users:,} users, {self.num_items:,} items)"
        )


def occurs(index: np.ndarray, size: int) -> np.ndarray:
    """Which of the indices 0 .. size - 1 occur in ``index``, bool ``[size]``."""
    found = np.zeros(size, dtype=bool)
    found[index] = True
    return found


def is_repeated(*columns: np.ndarray) -> np.ndarray:
    """Whether an earlier row holds the same values in all columns, bool ``[N]``.

    Args:
        columns: Columns of whole numbers, ``[N]`` each.
    """
    mixed = np.zeros(len(columns[0]), dtype=np.int64)
    for column in columns:
        mixed *= _MULTIPLIER  # wraps around
        mixed += column
    ordered = np.sort(mixed)
    several = ordered[1:][ordered[1:] == ordered[:-1]]
    repeated = np.zeros(len(mixed), dtype=bool)
    if len(several):
        # Different rows may be mixed to the same number; only those are compared.
        rows = np.flatnonzero(contains(several, mixed))
        some = pd.DataFrame({place: column[rows] for place, column in enumerate(columns)})
        repeated[rows] = some.duplicated().to_numpy()
    return repeated


def contains(ordered: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Which values occur in a sorted array, bool ``[N]``.

    Args:
        ordered: The array, sorted, ``[M]``.
        values: The values, ``[N]``.
    """
    if not len(ordered):
        return np.zeros(len(values), dtype=bool)
    place = np.searchsorted(ordered, values)
    return ordered[np.minimum(place, len(ordered) - 1)] == values


def _extended(
    known: Vocabulary, index: np.ndarray, others: Vocabulary, rows: np.ndarray
) -> tuple[Vocabulary, np.ndarray]:
    """A vocabulary with the ids that it lacks, and the indices of rows in it.

    Args:
        known: The vocabulary.
        index: The index of each row in it, below 0 where it lacks the id.
        others: The vocabulary of the rows.
        rows: The index of each row in that one.
    """
    is_new = index < 0
    if not is_new.any():
        return known, index
    strangers, place = np.unique(rows[is_new], return_inverse=True)
    index[is_new] = len(known) + place
    return Vocabulary([*known.ids, *others.lookup(strangers)]), index


def _in_one_unit(log: Interactions, later: Interactions) -> tuple[Interactions, Interactions]:
    """Two logs in the finer of their units of time."""
    if log.time_unit == "none":
        rows = later.select(np.argsort(later.time, kind="stable"))
        return log, replace(rows, time=np.zeros_like(rows.time), time_unit="none")
    if later.time_unit == "none":
        raise ValueError("the events have no times, but the log has; give each event its time")
    unit = max(log.time_unit, later.time_unit, key=TICKS_PER_DAY.__getitem__)
    return log.in_unit(unit), later.in_unit(unit)


def k_core(interactions: Interactions, user_k: int = 1, item_k: int = 1) -> Interactions:
    """Drops users and items with few rows, repeatedly, until all that are left have enough.

    Args:
        interactions: The log.
        user_k: Rows that each user must keep.
        item_k: Rows that each item must keep.

    Returns:
        The largest subset in which every user and item has enough rows, reindexed. With both at 1,
        the log itself.

    Raises:
        ValueError: If no row is left.
    """
    if max(user_k, item_k) <= 1:
        return interactions
    kept = interactions
    while len(kept):
        rows = (np.bincount(kept.user, minlength=kept.num_users)[kept.user] >= user_k) & (
            np.bincount(kept.item, minlength=kept.num_items)[kept.item] >= item_k
        )
        if rows.all():
            return kept.reindexed()
        kept = kept.select(rows)
    raise ValueError(
        f"no row is left in the k-core with at least {user_k} per user and {item_k} per item"
    )


def require_choice(log: Interactions, source: str) -> None:
    """Checks that a log has at least two users and two items.

    Args:
        log: The log.
        source: Name of the log in the error.

    Raises:
        ValueError: If it has fewer than two users or two items.
    """
    for number, name in ((log.num_users, "user"), (log.num_items, "item")):
        if number < 2:
            raise ValueError(
                f"{source} has {number} {name} only; a recommender needs at least two users and "
                "two items"
            )


def _whole_numbers(name: str, values: Any) -> np.ndarray:
    """A column as int64 ``[N]``; anything that a cast would change is refused."""
    column = np.asarray(values)
    if column.ndim != 1:
        raise ValueError(f"column {name!r} has shape {column.shape}, must have one dimension")
    if column.dtype.kind not in "iuf" and len(column):
        raise ValueError(f"column {name!r} holds {column.dtype}, must hold whole numbers")
    with np.errstate(invalid="ignore"):
        whole = np.ascontiguousarray(column, dtype=np.int64)
    wrong = whole != column
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(f"row {row}: {name} is {column[row]}, must be a whole number")
    return whole


def _check_range(name: str, column: np.ndarray, size: int) -> None:
    if len(column) and (column.min() < 0 or column.max() >= size):
        row = int(np.flatnonzero((column < 0) | (column >= size))[0])
        raise ValueError(f"row {row}: {name} is {column[row]}, must be in 0 .. {size - 1}")
