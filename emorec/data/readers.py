"""From tables of any origin to interactions, with every bad value named."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from emorec.data.feedback import Feedback
from emorec.data.interactions import Interactions, TimeUnit
from emorec.data.rules import STARS, FeedbackRules, NoRuleMatches, RuleMatch
from emorec.data.tables import DataError, FileFormat, Table, column_remedy, read_table, to_numbers
from emorec.data.times import TimeUnitOption, parse_times
from emorec.data.vocabulary import Vocabulary

__all__ = ["DataError", "ReadReport", "interactions_of_table", "load_rules", "read_interactions"]

RulesLike = FeedbackRules | Mapping[str, Any] | str | Path


@dataclass(frozen=True)
class ReadReport:
    """What reading a log kept, dropped and assumed.

    Attributes:
        source: The file, or "the DataFrame".
        rows_read: Rows of the source.
        rows_kept: Rows that became interactions.
        dropped: Rows left out per reason: "not rated", "no rule matches", "duplicate".
        feedback: Kept rows per kind of feedback.
        unused_rules: Rules that matched no row, as text.
        time_unit: "s" or "ms".
        time_note: How the times were understood.
    """

    source: str
    rows_read: int
    rows_kept: int
    dropped: dict[str, int]
    feedback: dict[Feedback, int]
    unused_rules: tuple[str, ...]
    time_unit: TimeUnit
    time_note: str

    def __str__(self) -> str:
        dropped = [f"{rows:,} {reason}" for reason, rows in self.dropped.items() if rows]
        kinds = [f"{rows:,} {kind.label.replace('_', '-')}" for kind, rows in self.feedback.items()]
        lines = [
            f"{self.source}: {self.rows_kept:,} of {self.rows_read:,} rows kept",
            f"dropped: {', '.join(dropped) or 'none'}",
            f"feedback: {', '.join(kinds)}",
            self.time_note,
            *(f"a rule matches no row: {rule}" for rule in self.unused_rules),
        ]
        return "\n".join(lines)


def read_interactions(
    source: str | Path | pd.DataFrame,
    *,
    user: str = "user_id",
    item: str = "item_id",
    time: str = "timestamp",
    rating: str = "rating",
    feedback: str | None = None,
    rules: RulesLike = "ratings",
    time_unit: TimeUnitOption = "auto",
    time_format: str | None = None,
    file_format: FileFormat | None = None,
    delimiter: str | None = None,
    names: list[str] | None = None,
    encoding: str = "utf-8",
    decimal: str = ".",
) -> tuple[Interactions, ReadReport]:
    """Reads a log of interactions, in its own order.

    Rows that match no rule are dropped, as are repeats of a row (same user, item, time and
    feedback) after the first.

    Args:
        source: A csv, tsv, JSON lines or parquet file (plain or .gz), or a DataFrame.
        user: Column of user ids, integers or text.
        item: Column of item ids, integers or text.
        time: Column of times, see `emorec.data.times.parse_times`.
        rating: Column that the rules know as ``rating``; used only if they ask for it.
        feedback: Column that holds the kind of feedback itself (labels such as
            "explicit_positive"); then neither rating nor rules are used.
        rules: Shipped rules ("ratings", "kuairand"), a TOML file, a dict or `FeedbackRules`.
        time_unit: "s", "ms" or "auto" (by size; the report tells).
        time_format: How dates are written, if not as ISO 8601.
        file_format: "csv", "jsonl" or "parquet"; None tells by the suffix.
        delimiter: Of a csv file, one or more characters; None tells by the header.
        names: Column names of a csv file that has no header; a first line of these names is one.
        encoding: Encoding of a text file.
        decimal: What separates decimals in a csv file, "." or ",".

    Returns:
        The interactions and the report of what was kept, dropped and assumed.

    Raises:
        DataError: If the log cannot be read; names file, line, column and value.
        ValueError: If the rules are wrong or match no row.
    """
    chosen = None if feedback is not None else load_rules(rules)
    if isinstance(source, pd.DataFrame):
        table = Table.of_frame(source)
    else:
        asked = {user, item, time, *((feedback,) if feedback is not None else ())}
        text = [user, item]
        if chosen is not None:
            text += [column for column in chosen.text_columns if column != "rating"]
            asked |= {rating if column == "rating" else column for column in chosen.columns}
        table = read_table(
            source,
            file_format=file_format,
            delimiter=delimiter,
            names=names,
            text_columns=text,
            columns=sorted(asked),
            encoding=encoding,
            decimal=decimal,
        )
    return interactions_of_table(
        table,
        user=user,
        item=item,
        time=time,
        rating=rating,
        feedback=feedback,
        rules=chosen,
        time_unit=time_unit,
        time_format=time_format,
    )


def interactions_of_table(
    table: Table,
    *,
    user: str = "user_id",
    item: str = "item_id",
    time: str = "timestamp",
    rating: str = "rating",
    feedback: str | None = None,
    rules: FeedbackRules | None = None,
    time_unit: TimeUnitOption = "auto",
    time_format: str | None = None,
) -> tuple[Interactions, ReadReport]:
    """The same for a table that is read already; see `read_interactions`."""
    user_ids = table.full_column(user, "user id", column_remedy("user"))
    item_ids = table.full_column(item, "item id", column_remedy("item"))
    times = parse_times(table, time, time_unit, time_format)
    if feedback is not None:
        match = RuleMatch(_labels(table, feedback), ())
        rated = np.ones(len(table.frame), dtype=bool)
    elif rules is not None:
        match, rated = _match(table, rating, rules)
    else:
        raise ValueError("either rules or a column of feedback must be given")

    matched = np.flatnonzero(match.feedback >= 0)
    for name, ids in ((user, user_ids), (item, item_ids)):
        _warn_of_nobody(table, name, ids)
    users, user_index = _fit(user_ids.iloc[matched], table.from_text)
    items, item_index = _fit(item_ids.iloc[matched], table.from_text)
    kinds, ticks = match.feedback[matched], times.values[matched]
    repeats = (
        pd.DataFrame({"user": user_index, "item": item_index, "time": ticks, "kind": kinds})
        .duplicated()
        .to_numpy()
    )
    interactions = Interactions(
        user_index, item_index, kinds, ticks, users, items, times.unit
    ).select(~repeats)
    unmatched = match.feedback < 0
    report = ReadReport(
        source=table.source,
        rows_read=len(table.frame),
        rows_kept=len(interactions),
        dropped={
            "not rated": int((unmatched & ~rated).sum()),
            "no rule matches": int((unmatched & rated).sum()),
            "duplicate": int(repeats.sum()),
        },
        feedback=interactions.feedback_counts(),
        unused_rules=tuple(map(str, match.unused)),
        time_unit=times.unit,
        time_note=times.note,
    )
    return interactions, report


def load_rules(rules: RulesLike) -> FeedbackRules:
    """Rules from any way to give them."""
    if isinstance(rules, FeedbackRules):
        return rules
    if isinstance(rules, Mapping):
        return FeedbackRules.from_dict(rules)
    return FeedbackRules.load(rules)


def _match(table: Table, rating: str, rules: FeedbackRules) -> tuple[RuleMatch, np.ndarray]:
    """Feedback per row, and whether the row is rated (without a rating, or with 0, it is not)."""
    frame = table.frame
    rated = np.ones(len(frame), dtype=bool)
    for name in rules.columns:
        if name != "rating":
            table.column(name, "feedback rules", "correct the rules or choose others")
    if "rating" in rules.columns:
        stars = _checked_ratings(table, rating)
        rated = np.isfinite(stars) & (stars != 0)
        _warn_of_other_scales(stars, table.source, rules)
        frame = frame.assign(rating=stars)
    try:
        return rules.match(frame), rated
    except NoRuleMatches as error:
        raise NoRuleMatches(f"{table.source}: {error}") from error
    except ValueError as error:
        raise DataError(f"{table.source}: {error}") from error


def _warn_of_other_scales(stars: np.ndarray, source: str, rules: FeedbackRules) -> None:
    stars = stars[np.isfinite(stars)]
    if (
        rules.name == STARS
        and len(stars)
        and (stars.min() < 0 or stars.max() <= 1 or stars.max() > 5)
    ):
        warnings.warn(
            f"{source}: ratings go from {stars.min():g} to {stars.max():g}, but are read as stars "
            "from 1 to 5: 5 is a like, 1 and 2 are dislikes, and what is above 5 or below 0 is "
            "dropped; for another scale, write rules (--set data.rules=FILE) or give a column of "
            "feedback (--set data.feedback_column=NAME)",
            stacklevel=2,
        )


def _checked_ratings(table: Table, column: str) -> np.ndarray:
    raw = table.column(column, "rating", f"{column_remedy('rating')}, or choose other rules")
    stars = to_numbers(raw).to_numpy(dtype=np.float64, na_value=np.nan)
    wrong = ~np.isfinite(stars) & raw.notna().to_numpy()
    has_comma = raw[wrong].astype(str).str.fullmatch(r"-?\d+,\d+").any()
    remedy = "write decimal points, not commas"
    if table.from_text:
        remedy = "if decimals have commas, say so (--set data.decimal=,)"
    table.refuse(
        wrong,
        column,
        "is no finite number; where there is no rating, leave it empty"
        + (f"; {remedy}" if has_comma else ""),
    )
    return stars


def _labels(table: Table, column: str) -> np.ndarray:
    remedy = column_remedy("feedback")
    codes, labels = pd.factorize(table.full_column(column, "feedback", remedy))
    kinds = np.empty(len(labels), dtype=np.int8)
    for index, label in enumerate(labels):
        try:
            kinds[index] = Feedback.from_label(label)
        except ValueError as error:
            row = int((codes == index).argmax())
            raise DataError(
                f"{table.place(row)}, column {column!r}: {error}; for other words, write rules, "
                f"such as explicit_positive = \"{column} == 'like'\""
            ) from None
    return kinds[codes]


def _warn_of_nobody(table: Table, column: str, ids: pd.Series) -> None:
    """Says so where an id of a file without types looks like a missing one."""
    if not table.from_text:
        return
    for word, count in ids[ids.isin(["NULL", "null", "NaN", "nan", "None"])].value_counts().items():
        warnings.warn(
            f"{table.source}, column {column!r}: {word!r} is taken for an id ({count:,} rows); "
            "drop these rows if it stands for a missing one",
            stacklevel=3,
        )


def _fit(ids: pd.Series, from_text: bool) -> tuple[Vocabulary, np.ndarray]:
    """A vocabulary; digits in a file without types become integers if all ids survive it."""
    vocabulary, index = Vocabulary.fit(ids)
    if from_text:
        texts = pd.Series(vocabulary.ids, dtype=object)
        if len(texts) and isinstance(texts.iloc[0], str):
            # No leading zeros or signs of plus, and few enough digits for int64.
            if texts.str.fullmatch(r"0|-?[1-9][0-9]{0,17}").all():
                vocabulary = Vocabulary(texts.astype(np.int64))
    return vocabulary, index
