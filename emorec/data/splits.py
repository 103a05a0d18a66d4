"""Hold-out splits: each user's last n events, all events after a cut in time, or random ones."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from emorec.data.interactions import TICKS_PER_DAY, Interactions, contains, occurs
from emorec.data.split_report import SplitMethod, SplitReport
from emorec.texts import count

__all__ = [
    "Split",
    "after_quantile",
    "hold_out_validation",
    "how_tests_differ",
    "is_repeat",
    "last_n_per_user",
    "split_interactions",
    "split_newest",
]


@dataclass(frozen=True)
class Split:
    """Three parts of a log that share vocabularies.

    The vocabularies hold the users and items that occur before the test split (train or valid);
    test rows of other users or items can be recommended by no model and are dropped.

    Attributes:
        train: The events that parameters are fitted to.
        valid: Hold-out that chooses checkpoints and hyper-parameters, with all its rows, because
            they are history when the test split is predicted. Its targets are `valid_targets`.
            Empty where the rule leaves none, e.g. where no user has more than 2n events.
        test: Hold-out that is evaluated once; warm users and items only.
        dropped: Number of test rows dropped because their user or item is cold.
        report: What the split did to the log; None for a split made by hand.
        known_targets: The rows of valid that a model of train can predict, where train does not
            tell, because it is one process's part of a log; None: `valid_targets` finds them.
    """

    train: Interactions
    valid: Interactions
    test: Interactions
    dropped: int = 0
    report: SplitReport | None = None
    known_targets: Interactions | None = None

    @cached_property
    def history(self) -> Interactions:
        """The events before the test split: train, then valid."""
        return self.train.joined_with(self.valid)

    @cached_property
    def log(self) -> Interactions:
        """All events: train, valid, then test."""
        return self.train.joined_with(self.valid, self.test)

    def without_users(self, ids: Iterable[Any]) -> Split:
        """The split without the rows and the ids of some users, by external ids."""
        gone = list(ids)
        train, valid, test = (
            part.without_users(gone) for part in (self.train, self.valid, self.test)
        )
        return Split(train, valid, test, self.dropped)

    @property
    def valid_targets(self) -> Interactions:
        """The rows of valid that a model of train can predict: user and item occur in train."""
        if self.known_targets is not None:
            return self.known_targets
        return self.valid.select(_is_warm(self.valid, self.train))


def split_interactions(
    interactions: Interactions,
    method: SplitMethod = "leave_last_out",
    n: int = 10,
    quantile: float = 0.9,
    days: float = 0.0,
    gap: float = 0.0,
) -> Split:
    """Holds out a test split, then a validation split of what remains, by the same rule.

    Args:
        interactions: The whole log.
        method: "leave_last_out" holds out the last ``n`` events of each user that has more;
            "time" holds out what happens after one cut; "random" holds out events drawn at random,
            the same in each call.
        n: Events held out per user and part; used by "leave_last_out".
        quantile: Share of the events before the cut, used by "time", or of those that are not
            held out, used by "random".
        days: Length of the held-out part, whose end is the newest event; used by "time" in place
            of the quantile if it is not 0.
        gap: Minutes before each cut whose events are left out of all parts; used by "time".

    Returns:
        The split, with its report.

    Raises:
        ValueError: If the method is unknown, ``n``, ``quantile``, ``days`` or ``gap`` is out of
            range, the log is empty, or the test split, its warm rows or the train split are none.
    """
    rule = _Rule(method, n, quantile, days, gap)
    in_test, in_gap = rule.held_out(interactions)
    if not in_test.any():
        raise ValueError(rule.why_empty(interactions))
    past, in_valid = _validation_of(interactions.select(~in_test & ~in_gap), rule)
    future = interactions.select(in_test)
    warm = _is_warm(future, past)
    if not warm.any():
        advice = "lower days" if days else "raise quantile"
        if method == "leave_last_out":
            advice = "lower n"
        raise ValueError(
            f"all {len(future):,} test rows belong to users or items that the {len(past):,} rows "
            f"before them lack; hold out less ({advice}) or drop rare users and items first"
        )
    history = past.reindexed()
    train, valid = history.select(~in_valid), history.select(in_valid)
    test = _in_vocabularies(future.select(warm), past, history)
    report = SplitReport.of(
        method,
        n if method == "leave_last_out" else days or quantile,
        train=train,
        valid=valid,
        valid_cold=int((~_is_warm(valid, train)).sum()),
        past=past,
        future=future,
        kept=test,
        repeats=int(is_repeat(test, history).sum()),
        in_days=days > 0,
        left_out=len(interactions) - len(past) - len(future),
    )
    return Split(train, valid, test, int((~warm).sum()), report)


def hold_out_validation(
    interactions: Interactions,
    method: SplitMethod = "leave_last_out",
    n: int = 10,
    quantile: float = 0.9,
    days: float = 0.0,
    gap: float = 0.0,
) -> Split:
    """Holds out a validation split alone, for a model that is to be used rather than evaluated.

    Args:
        interactions: The whole log.
        method: As in `split_interactions`.
        n: As in `split_interactions`.
        quantile: As in `split_interactions`.
        days: As in `split_interactions`.
        gap: As in `split_interactions`.

    Returns:
        A split with an empty test split, whose vocabularies hold just the users and items that
        occur: others could only be scored by chance.

    Raises:
        ValueError: If the method is unknown, ``n``, ``quantile``, ``days`` or ``gap`` is out of
            range, or the log or the train split is empty.
    """
    log, in_valid = _validation_of(interactions, _Rule(method, n, quantile, days, gap))
    log = log.reindexed()
    nothing = log.select(np.zeros(len(log), dtype=bool))
    return Split(log.select(~in_valid), log.select(in_valid), nothing)


def split_newest(
    log: Interactions, num_new: int, method: SplitMethod = "leave_last_out", share: float = 0.2
) -> Split:
    """Holds out the newest of the events that were added to a log.

    Events that an earlier model has learned from are all in the train split: as targets they would
    flatter it.

    Args:
        log: The log, ``N`` rows.
        num_new: Number of its last rows that were added.
        method: "time": the newest of all added rows are held out; else the newest of each user.
        share: Share of the added rows that is the test split, and share of them that is the
            validation split; the newest, and those before. Rows of equal time keep their order.

    Returns:
        The split.

    Raises:
        ValueError: If ``share`` is not above 0 and at most 1/2, or no added row is left for the
            test split whose user and item occur before.
    """
    if not 0 < share <= 0.5:
        raise ValueError(f"share must be above 0 and at most 0.5, got {share}")
    added = np.arange(len(log) - num_new, len(log))
    group = np.zeros(num_new, dtype=np.int64) if method == "time" else log.user[added]
    order = np.lexsort((log.time[added], group))
    added, group = added[order], group[order]
    counts = np.bincount(group)
    place_from_end = np.cumsum(counts)[group] - np.arange(num_new)  # 1 = newest
    size = np.round(share * counts)[group]
    in_test, in_valid = np.zeros((2, len(log)), dtype=bool)
    in_test[added] = place_from_end <= size
    in_valid[added] = place_from_end <= 2 * size  # but for the rows of the test split
    past, future = log.select(~in_test), log.select(in_test)
    warm = _is_warm(future, past)
    if not warm.any():
        why = "no user has three of them"
        if len(future):
            why = f"none of the newest {len(future):,} has a user and an item that occur before"
        raise ValueError(f"{count(num_new, 'new event')} cannot judge a model: {why}")
    history = past.reindexed()
    test = _in_vocabularies(future.select(warm), past, history)
    is_valid = in_valid[~in_test]
    return Split(history.select(~is_valid), history.select(is_valid), test, int((~warm).sum()))


def how_tests_differ(one: Split, other: Split) -> str:
    """How the test splits of two logs differ: in held-out events, or in those before.

    How the events before the test split fall into train and valid makes no difference, nor does the
    order of rows.

    Returns:
        The difference as text; empty if there is none.
    """
    counts = {
        "users": (one.train.num_users, other.train.num_users),
        "items": (one.train.num_items, other.train.num_items),
        "held-out events": (len(one.test), len(other.test)),
        "events before them": (len(one.history), len(other.history)),
    }
    found = [f"{own:,} {what}, not {its:,}" for what, (own, its) in counts.items() if own != its]
    if found:
        return "; ".join(found)
    for what in ("users", "items"):
        ids, other_ids = getattr(one.train, what), getattr(other.train, what)
        strange = np.flatnonzero(other_ids.indices(ids.ids) < 0)
        if len(strange):
            return f"other {what}, such as {ids.lookup(strange[:1])[0]!r}"
        if ids != other_ids:
            return f"the same {what} in another order, as of a log that was sorted"
    for what, rows, others in (
        ("held-out events", one.test, other.test),
        ("events before the held-out ones", one.history, other.history),
    ):
        columns, other_columns = _sorted_columns(rows), _sorted_columns(others)
        differs = (columns != other_columns).any(axis=0)
        if differs.any():
            place = int(differs.argmax())
            user = min(columns[0, place], other_columns[0, place])
            return f"other {what}, such as those of user {rows.users.lookup([user])[0]!r}"
    return ""


def is_repeat(rows: Interactions, past: Interactions) -> np.ndarray:
    """Whether each row's user has an event with its item in past, bool ``[N]``.

    Args:
        rows: ``N`` rows.
        past: Rows of the same vocabularies.
    """
    pairs = past.user * past.num_items + past.item
    pairs.sort()
    return contains(pairs, rows.user * rows.num_items + rows.item)


def last_n_per_user(interactions: Interactions, n: int) -> np.ndarray:
    """The last ``n`` rows of each user that has more than ``n``; none of the others' rows.

    Rows of a user are ordered by time; rows of equal time keep the order of the log.

    Args:
        interactions: The log, ``N`` rows.
        n: Rows to hold out per user.

    Returns:
        Mask of the held-out rows, bool ``[N]``.

    Raises:
        ValueError: If ``n`` is below 1.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    order = interactions.chronological()
    counts = np.bincount(interactions.user, minlength=interactions.num_users)
    user = interactions.user[order]
    # Rows are grouped by user, so a user's last row is the one before the cumulative count.
    place_from_end = np.cumsum(counts)[user] - np.arange(len(order))  # 1 = last
    held_out = np.zeros(len(order), dtype=bool)
    held_out[order] = (place_from_end <= n) & (counts[user] > n)
    return held_out


def after_quantile(interactions: Interactions, quantile: float) -> np.ndarray:
    """The rows after the ``quantile`` of time; rows at that very time are not held out.

    With linear interpolation, the quantile lies between two neighbouring times of the log, and
    no row lies between those: the lower one selects the same rows and stays an integer.

    Args:
        interactions: The log, ``N`` rows, at least one.
        quantile: In (0, 1).

    Returns:
        Mask of the held-out rows, bool ``[N]``.

    Raises:
        ValueError: If ``quantile`` is not in (0, 1).
    """
    return interactions.time > _cut_time(interactions.time, quantile)


@dataclass(frozen=True)
class _Rule:
    """What is held out; the fields are the arguments of `split_interactions`."""

    method: SplitMethod
    n: int
    quantile: float
    days: float
    gap: float

    def __post_init__(self) -> None:
        if self.method not in ("leave_last_out", "time", "random"):
            raise ValueError(
                f"method must be 'leave_last_out', 'time' or 'random', got {self.method!r}"
            )
        for name, value in (("days", self.days), ("gap", self.gap)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be at least 0 and finite, got {value}")
            if value and self.method != "time":
                raise ValueError(f"{name} is {value:g}, which needs method 'time'")

    def held_out(self, rows: Interactions) -> tuple[np.ndarray, np.ndarray]:
        """Which rows are held out, and which are in the gap before them, bool ``[N]`` each."""
        if len(rows) == 0:
            raise ValueError("the log has 0 interactions, so there is nothing to split")
        if self.method == "leave_last_out":
            return last_n_per_user(rows, self.n), np.zeros(len(rows), dtype=bool)
        if self.method == "random":
            return _at_random(len(rows), self.quantile), np.zeros(len(rows), dtype=bool)
        if rows.time_unit == "none":
            raise ValueError(
                "the log has no times to split at; use method 'leave_last_out' or 'random' "
                "(--set split.method=random)"
            )
        day = TICKS_PER_DAY[rows.time_unit]
        if self.days:
            cut = int(rows.time.max()) - round(self.days * day) - 1
        else:
            cut = _cut_time(rows.time, self.quantile)
        held_out = rows.time > cut
        in_gap = (rows.time > cut - round(self.gap / (24 * 60) * day)) & ~held_out
        if (held_out | in_gap).all():
            raise ValueError(
                f"none of {len(rows):,} rows is before the held-out part"
                + (f" of {self.days:g} days" if self.days else "")
                + (f" and the gap of {self.gap:g} minutes" if self.gap else "")
                + f"; lower {'days' if self.days else 'gap'} "
                f"(the setting split.{'days' if self.days else 'gap'})"
            )
        return held_out, in_gap

    def why_empty(self, rows: Interactions) -> str:
        """Why no row of a log is held out, and what would help."""
        if self.method == "random":
            return (
                f"the test split is empty: {1 - self.quantile:g} of {len(rows):,} rows is less "
                "than one; lower quantile"
            )
        if self.method == "time":
            cut = _cut_time(rows.time, self.quantile)
            return (
                f"the test split is empty: none of {len(rows):,} rows is later than the "
                f"{self.quantile:g} quantile of time, {cut}; lower quantile or use method "
                "'leave_last_out'"
            )
        longest = int(np.bincount(rows.user).max())
        advice = (
            f"lower n (the setting split.n) to at most {longest - 1}"
            if longest > 1
            else "use method 'time'"
        )
        return (
            f"the test split is empty: no user has more than n = {self.n} interactions, the "
            f"longest has {longest}; {advice}"
        )


def _at_random(number: int, quantile: float) -> np.ndarray:
    """A mask of ``number`` rows that are held out at random, all but the share ``quantile``."""
    if not 0 < quantile < 1:
        raise ValueError(f"quantile must be between 0 and 1, both excluded, got {quantile}")
    held_out = np.zeros(number, dtype=bool)
    size = int(round((1 - quantile) * number))
    held_out[np.random.default_rng(0).permutation(number)[:size]] = True
    return held_out


def _validation_of(rows: Interactions, rule: _Rule) -> tuple[Interactions, np.ndarray]:
    """Rows without those of the gap before validation, and which of them are validation."""
    in_valid, in_gap = rule.held_out(rows)
    return rows.select(~in_gap), in_valid[~in_gap]


def _is_warm(rows: Interactions, past: Interactions) -> np.ndarray:
    """Whether each row's user and item occur in past, of the same vocabularies, bool ``[N]``."""
    known_user, known_item = occurs(past.user, past.num_users), occurs(past.item, past.num_items)
    return known_user[rows.user] & known_item[rows.item]


def _sorted_columns(rows: Interactions) -> np.ndarray:
    """User, item, time and feedback, int64 ``[4, N]``, in an order that the rows alone decide."""
    columns = np.stack([rows.user, rows.item, rows.time, rows.feedback.astype(np.int64)])
    return columns[:, np.lexsort(columns[::-1])]


def _in_vocabularies(rows: Interactions, past: Interactions, history: Interactions) -> Interactions:
    """Rows of the whole log's vocabularies in those of history, which is past reindexed."""
    user_index = np.full(past.num_users, -1)
    item_index = np.full(past.num_items, -1)
    user_index[past.user] = history.user
    item_index[past.item] = history.item
    return Interactions(
        user_index[rows.user],
        item_index[rows.item],
        rows.feedback,
        rows.time,
        history.users,
        history.items,
        rows.time_unit,
    )


def _cut_time(time: np.ndarray, quantile: float) -> int:
    if not 0 < quantile < 1:
        raise ValueError(f"quantile must be between 0 and 1, both excluded, got {quantile}")
    return int(np.quantile(time, quantile, method="lower"))
