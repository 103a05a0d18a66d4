"""What a hold-out split did to a log, for people and for the record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from emorec.data.feedback import Feedback
from emorec.data.interactions import Interactions, occurs

__all__ = ["PartSummary", "SplitMethod", "SplitReport"]

SplitMethod = Literal["leave_last_out", "time", "random"]


@dataclass(frozen=True)
class PartSummary:
    """Size and composition of one part of a split.

    Attributes:
        rows: Interactions.
        users: Users with at least one row.
        items: Items with at least one row.
        feedback: Rows per kind of feedback.
    """

    rows: int
    users: int
    items: int
    feedback: dict[Feedback, int]

    @classmethod
    def of(cls, part: Interactions) -> PartSummary:
        """Counts a part."""
        users, items = occurs(part.user, part.num_users), occurs(part.item, part.num_items)
        return cls(len(part), int(users.sum()), int(items.sum()), part.feedback_counts())


@dataclass(frozen=True)
class SplitReport:
    """What a split did to the log, and how far its test split can be trusted.

    Attributes:
        method: "leave_last_out", "time" or "random".
        parameter: ``n``, ``quantile`` or ``days``.
        parts: Summaries of "train", "valid", "history" (train and valid), "test" (as held out) and
            "test kept" (warm rows only).
        ties_at_cut: Leave-last-out: users whose first test event has the same time as their last
            event before it, so that the order of the log decided. Time: rows at the latest time of
            history, which is the cut of a quantile.
        ties_share: ``ties_at_cut`` as a share of the users with a test split, or of all rows.
        test_before_history: Share of test events that happen before the latest history event of
            the whole log, so that a model has seen other users' future. 0 for the time split.
        cold_users: Users of the test split that do not occur in history.
        cold_items: Items of the test split that do not occur in history.
        dropped: Test rows dropped because of a cold user or item.
        valid_cold: Rows of valid whose user or item does not occur in train. They are no targets,
            but stay in history.
        repeats: Rows of "test kept" whose user has an event with the same item in history.
        has_times: Whether the log has times; else its order of rows decided everything.
        in_days: Whether ``parameter`` is a number of days.
        left_out: Rows of the gaps before the cuts, which are in no part.
    """

    method: SplitMethod
    parameter: float
    parts: dict[str, PartSummary]
    ties_at_cut: int
    ties_share: float
    test_before_history: float
    cold_users: int
    cold_items: int
    dropped: int
    valid_cold: int
    repeats: int = 0
    has_times: bool = True
    in_days: bool = False
    left_out: int = 0

    @classmethod
    def of(
        cls,
        method: SplitMethod,
        parameter: float,
        *,
        train: Interactions,
        valid: Interactions,
        valid_cold: int,
        past: Interactions,
        future: Interactions,
        kept: Interactions,
        repeats: int,
        in_days: bool = False,
        left_out: int = 0,
    ) -> SplitReport:
        """Describes a split.

        Args:
            method: How it was made.
            parameter: Its ``n``, ``quantile`` or ``days``.
            train: Train part.
            valid: Validation part.
            valid_cold: Rows of valid that are cold in train.
            past: History in the vocabularies of the whole log.
            future: Test part as held out, in the same vocabularies.
            kept: Its warm rows.
            repeats: Those of them whose item the user has in history.
            in_days: Whether ``parameter`` is a number of days.
            left_out: Rows of the gaps before the cuts.
        """
        if method == "time":
            ties = int((past.time == past.time.max()).sum())
            share = ties / (len(past) + len(future))
        elif method == "random":
            ties, share = 0, 0.0
        else:
            ties = _users_tied_at_cut(past, future)
            share = ties / int(occurs(future.user, future.num_users).sum())
        parts = {
            "train": train,
            "valid": valid,
            "history": past,
            "test": future,
            "test kept": kept,
        }
        return cls(
            method=method,
            parameter=parameter,
            parts={name: PartSummary.of(part) for name, part in parts.items()},
            ties_at_cut=ties,
            ties_share=share,
            test_before_history=float((future.time < past.time.max()).mean()),
            cold_users=_number_of_cold(future.user, past.user, past.num_users),
            cold_items=_number_of_cold(future.item, past.item, past.num_items),
            dropped=len(future) - len(kept),
            valid_cold=valid_cold,
            repeats=repeats,
            has_times=past.time_unit != "none",
            in_days=in_days,
            left_out=left_out,
        )

    def __str__(self) -> str:
        kinds = [kind.label.replace("_", " ") for kind in Feedback]
        header = ["part", "rows", "users", "items", *kinds]
        lines = [header] + [
            [name, *(f"{count:,}" for count in (part.rows, part.users, part.items))]
            + [f"{part.feedback[kind]:,}" for kind in Feedback]
            for name, part in self.parts.items()
        ]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        table = [
            "  ".join(
                cell.ljust(width) if place == 0 else cell.rjust(width)
                for place, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            for line in lines
        ]
        before = f"{self.test_before_history:.1%} of the test events happen before the latest"
        if self.method == "time":
            title = f"time split: test is what happens after quantile {self.parameter:g} of time"
            if self.in_days:
                title = f"time split: test is the newest {24 * self.parameter:g} hours"
            ties = (
                f"{self.ties_at_cut:,} rows ({self.ties_share:.2%}) are at the cut time "
                "and stay in history"
            )
            if self.in_days or self.left_out:
                ties = f"{self.left_out:,} rows are left out in the gaps before the cuts"
            leak = f"{before} history event"
        elif self.method == "random":
            share = round(1 - self.parameter, 6)
            title = f"random split: test is {share:g} of the rows, drawn at random"
            ties = "order and times of events play no part"
            leak = f"{before} history event: models see what came later"
        else:
            title = f"leave-{self.parameter:g}-last-out: test is the end of each long enough user"
            ties = (
                f"{self.ties_at_cut:,} users ({self.ties_share:.1%} of those with a test split) "
                "have events of equal time on both sides of the cut; the order of the log decided"
            )
            leak = f"{before} history event of the whole log: models see the future of other users"
            if not self.has_times:
                ties = "the log has no times, so the order of its rows decided"
                leak = "how many test events happen before events of history is unknown"
        cold = (
            f"{self.dropped:,} test rows are dropped, as nothing before the test split is of their "
            f"user ({self.cold_users:,} users) or their item ({self.cold_items:,} items); "
            f"{self.valid_cold:,} validation rows likewise count as history, but not as targets"
        )
        number = self.parts["test kept"].rows
        again = (
            f"{self.repeats:,} of {number:,} test rows ({self.repeats / number:.1%}) are of items "
            "that their user has seen"
        )
        return "\n".join([title, *table, ties, leak, cold, again])


def _number_of_cold(future: np.ndarray, past: np.ndarray, size: int) -> int:
    """How many of the indices 0 .. size - 1 occur in future and not in past."""
    return int((occurs(future, size) & ~occurs(past, size)).sum())


def _users_tied_at_cut(past: Interactions, future: Interactions) -> int:
    last = np.full(past.num_users, np.iinfo(np.int64).min)
    first = np.full(past.num_users, np.iinfo(np.int64).max)
    np.maximum.at(last, past.user, past.time)
    np.minimum.at(first, future.user, future.time)
    return int((last == first).sum())
