"""Converts tables to interactions; errors name the row, the column and the value."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from emorec.data.feedback import Feedback
from emorec.data.interactions import Interactions, TimeUnit, is_repeated
from emorec.data.rules import STARS, FeedbackRules, NoRuleMatches, RuleMatch
from emorec.data.scales import require_stars
from emorec.data.table_files import FileFormat, read_table
from emorec.data.tables import DataError, Table, as_frame, to_numbers, to_texts
from emorec.data.times import Order, Times, TimeUnitOption, no_times, parse_times
from emorec.data.vocabulary import IdError, Vocabulary
from emorec.texts import count

__all__ = [
    "DataError",
    "EventRows",
    "ReadReport",
    "columns_to_read",
    "event_rows",
    "fit_ids",
    "interactions_of_table",
    "load_rules",
    "read_interactions",
]

RulesLike = FeedbackRules | Mapping[str, Any] | str | Path
_ORDER_SEED = 0
_PLAYS = (
    'for plays, clicks or purchases without any rating, save implicit_positive = "True" in a '
    "file and give --set data.rules=FILE (Python: EmoRec(..., 'data.rules=FILE'))"
)


@dataclass(frozen=True)
class ReadReport:
    """Report of reading a log: rows kept, rows dropped, and assumptions.

    Attributes:
        source: The file, or "the DataFrame".
        rows_read: Rows of the source.
        rows_kept: Rows that became interactions.
        dropped: Rows left out per reason: "not rated", "no rule matches", "duplicate".
        feedback: Kept rows per kind of feedback.
        unused_rules: Rules that matched no row, as text.
        time_unit: Unit of the interactions' times.
        time_note: How the times were read.
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
        kinds = [f"{rows:,} {kind.label.replace('_', '-')}" for kind, rows in self.feedback.items()]
        lines = [
            f"{self.source}: {self.rows_kept:,} of {self.rows_read:,} rows kept",
            f"dropped: {self._reasons() or 'none'}",
            f"feedback: {', '.join(kinds)}",
            self.time_note,
            *(f"a rule matches no row: {rule}" for rule in self.unused_rules),
        ]
        return "\n".join(lines)

    @property
    def dropped_note(self) -> str:
        """One sentence about the rows that were left out; empty if there are none."""
        number = self.rows_read - self.rows_kept
        if not number:
            return ""
        return (
            f"{self.source}: {number:,} of {self.rows_read:,} rows are left out: {self._reasons()}"
        )

    def _reasons(self) -> str:
        return ", ".join(f"{rows:,} {reason}" for reason, rows in self.dropped.items() if rows)


def read_interactions(
    source: Any,
    *,
    user: str = "user_id",
    item: str = "item_id",
    time: str = "timestamp",
    rating: str = "rating",
    feedback: str | None = None,
    rules: RulesLike | None = None,
    time_unit: TimeUnitOption = "auto",
    time_format: str | None = None,
    order: Order = "file",
    file_format: FileFormat | None = None,
    delimiter: str | None = None,
    names: list[str] | None = None,
    encoding: str = "utf-8",
    decimal: str = ".",
    settable: bool = True,
) -> tuple[Interactions, ReadReport]:
    """Reads a log of interactions, in its own order.

    Rows that match no rule are dropped, as are repeats of a row (same user, item, time and
    feedback) after the first, where the log has times.

    Args:
        source: A csv, tsv, JSON lines or parquet file (plain or .gz), a DataFrame, or a table of
            any library with the Arrow C stream interface, such as polars.
        user: Column of user ids, integers or text.
        item: Column of item ids, integers or text.
        time: Column of times, see `emorec.data.times.parse_times`; "" for a log without times.
        rating: Column that rules call ``rating``; used only if they need it.
        feedback: Column that holds the kind of feedback itself (labels such as
            "explicit_positive"); then neither rating nor rules are used.
        rules: Shipped rules ("ratings", "kuairand", "yambda"), a TOML file, a dict or
            `FeedbackRules`. None takes "ratings", for stars from 1 to 5, and refuses ratings that
            do not look like them.
        time_unit: "s", "ms", "us", "ns" or "auto" (by size; see the report).
        time_format: How dates are written, if not as ISO 8601.
        order: Order of events without times: "file", that of rows; or "none", a random but
            reproducible one.
        file_format: "csv", "jsonl" or "parquet"; None: chosen by the suffix.
        delimiter: Of a csv file, one or more characters; None: read from the header.
        names: Column names of a csv file that has no header; a first line of these names is one.
        encoding: Encoding of a text file.
        decimal: What separates decimals in a csv file, "." or ",".
        settable: False for events of a trained model, whose settings cannot be changed.

    Returns:
        The interactions and the report.

    Raises:
        DataError: If the log cannot be read; names file, line, column and value.
        ValueError: If the rules are wrong or match no row.
    """
    chosen = None if feedback is not None else load_rules("ratings" if rules is None else rules)
    frame = as_frame(source)
    if frame is not None:
        table = Table.of_frame(frame, settable=settable)
    else:
        columns, text = columns_to_read(user, item, time, rating, feedback, chosen)
        table = read_table(
            source,
            file_format=file_format,
            delimiter=delimiter,
            names=names,
            text_columns=text,
            columns=columns,
            encoding=encoding,
            decimal=decimal,
            settable=settable,
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
        order=order,
        are_stars=rules is not None,
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
    order: Order = "file",
    are_stars: bool = True,
) -> tuple[Interactions, ReadReport]:
    """The same for a table that is read already; see `read_interactions`.

    Args:
        table: The table.
        user: As there, like all others but the last.
        item: As there.
        time: As there.
        rating: As there.
        feedback: As there.
        rules: As there.
        time_unit: As there.
        time_format: As there.
        order: As there.
        are_stars: Whether it is certain that ratings are stars from 1 to 5 where ``rules`` are the
            shipped ones for stars.
    """
    rows = event_rows(
        table,
        user=user,
        item=item,
        time=time,
        rating=rating,
        feedback=feedback,
        rules=rules,
        time_unit=time_unit,
        time_format=time_format,
        order=order,
    )
    match, times, rated = rows.match, rows.times, rows.rated
    if rules is not None and feedback is None:
        if rows.stars is not None and rules.name == STARS:
            require_stars(rows.stars, table.source, is_certain=are_stars, settable=table.settable)
        if len(match.unused) == len(rules.rules):
            number, unrated = len(table.frame), int((~rated).sum())
            counts = f"{count(number, 'row')}, {unrated:,} of them not rated"
            raise NoRuleMatches(f"{table.source} ({counts}): {rules.nothing_matches(rows.judged)}")
        for rule in match.unused:
            warnings.warn(f"{rules.name}: this rule matches no row: {rule}", stacklevel=2)
    matched = np.flatnonzero(match.feedback >= 0)
    if not time and order == "none":
        np.random.default_rng(_ORDER_SEED).shuffle(matched)
    for name, ids in ((user, rows.user), (item, rows.item)):
        _warn_of_missing_words(table, name, ids)
    users, user_index = _fit(table, user, rows.user, matched)
    items, item_index = _fit(table, item, rows.item, matched)
    kinds, ticks = match.feedback[matched], times.values[matched]
    interactions = Interactions(user_index, item_index, kinds, ticks, users, items, times.unit)
    # Without times, two rows of the same words may be two events.
    repeats = np.zeros(len(matched), dtype=bool)
    if time:
        repeats = is_repeated(user_index, item_index, ticks, kinds)
    if repeats.any():
        interactions = interactions.select(~repeats)
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


class EventRows(NamedTuple):
    """The rows of a table as events, before their ids are numbered.

    Attributes:
        user: Own ids of users, one per row.
        item: Own ids of items, one per row.
        times: The times.
        match: Kinds of feedback, and the rules that matched no row.
        rated: Whether each row is rated, bool ``[N]``.
        stars: Ratings, if the rules need them as numbers, float64 ``[N]``; else None.
        judged: What the rules were applied to.
    """

    user: pd.Series
    item: pd.Series
    times: Times
    match: RuleMatch
    rated: np.ndarray
    stars: np.ndarray | None
    judged: pd.DataFrame


def event_rows(
    table: Table,
    *,
    user: str,
    item: str,
    time: str,
    rating: str,
    feedback: str | None,
    rules: FeedbackRules | None,
    time_unit: TimeUnitOption = "auto",
    time_format: str | None = None,
    order: Order = "file",
) -> EventRows:
    """Kinds and times of a table's rows, or of a part of them; see `read_interactions`.

    Whether the log as a whole makes sense (some rule matches, ratings are stars) is not judged.

    Raises:
        DataError: If a row cannot be read; names the row, the column and the value.
        ValueError: If the rules do not fit the columns.
    """
    user_ids = table.full_column(user, "user id")
    item_ids = table.full_column(item, "item id")
    if time:
        times = parse_times(table, time, time_unit, time_format)
    else:
        times = no_times(len(table.frame), order)
    if feedback is not None:
        match = RuleMatch(_labels(table, feedback), ())
        rated = np.ones(len(table.frame), dtype=bool)
        return EventRows(user_ids, item_ids, times, match, rated, None, table.frame)
    if rules is None:
        raise ValueError("either rules or a column of feedback must be given")
    return EventRows(user_ids, item_ids, times, *_match(table, rating, rules))


def columns_to_read(
    user: str,
    item: str,
    time: str,
    rating: str,
    feedback: str | None,
    rules: FeedbackRules | None,
) -> tuple[list[str], list[str]]:
    """The columns that a log is made of, and those of them that are text to the letter.

    Args:
        user: As in `read_interactions`.
        item: As there.
        time: As there.
        rating: As there.
        feedback: As there.
        rules: The rules; None where a column holds the kinds of feedback.
    """
    asked = {user, item} | ({time} if time else set())
    asked |= {feedback} if feedback is not None else set()
    text = [user, item]
    if rules is not None:
        named = {"rating": rating}
        asked |= {named.get(column, column) for column in rules.columns}
        text += [named.get(column, column) for column in rules.text_columns]
    return sorted(asked), text


def load_rules(rules: RulesLike) -> FeedbackRules:
    """Loads rules from any of the accepted forms."""
    if isinstance(rules, FeedbackRules):
        return rules
    if isinstance(rules, Mapping):
        return FeedbackRules.from_dict(rules)
    return FeedbackRules.load(rules)


def _match(
    table: Table, rating: str, rules: FeedbackRules
) -> tuple[RuleMatch, np.ndarray, np.ndarray | None, pd.DataFrame]:
    """The last four of `EventRows`; without a rating, or with 0, a row is not rated."""
    frame, stars = table.frame, None
    rated = np.ones(len(frame), dtype=bool)
    for name in rules.columns:
        if name != "rating":
            table.column(name, "feedback rules", "correct the rules or choose others")
    if "rating" in rules.text_columns:  # thumbs in words
        raw = table.column(rating, "rating")
        rated = raw.notna().to_numpy()
        frame = frame.assign(rating=raw)
    elif "rating" in rules.columns:
        stars = _checked_ratings(table, rating)
        rated = np.isfinite(stars) & (stars != 0)
        frame = frame.assign(rating=stars)
    try:
        return rules.decide(frame), rated, stars, frame
    except ValueError as error:
        raise DataError(f"{table.source}: {error}") from error


def _checked_ratings(table: Table, column: str) -> np.ndarray:
    if column not in table.frame.columns and table.settable:
        table.column(
            column,
            "rating",
            f"if another column holds it, give --set data.rating_column=NAME; {_PLAYS}",
        )
    raw = table.column(column, "rating")
    stars = to_numbers(raw).to_numpy(dtype=np.float64, na_value=np.nan)
    wrong = ~np.isfinite(stars) & raw.notna().to_numpy()
    if wrong.any():
        values = to_texts(raw[wrong])
        remedy = "where there is no rating, leave it empty"
        if values.str.fullmatch(r"-?\d+,\d+").any():
            remedy += "; write decimal points, not commas"
            if table.from_text and table.settable:
                remedy += ", or give --set data.decimal=,"
        elif values.str.fullmatch(r"[\d.,]+ ?%").any():
            remedy += "; write percentages without the sign"
        elif table.settable and np.isnan(pd.to_numeric(values, errors="coerce")).all():
            remedy += (
                '; for words, write rules such as explicit_positive = "rating == '
                f"'{values.iloc[0][:20]}'\""
            )
        table.refuse(wrong, column, f"is not a finite number; {remedy}")
    return stars


def _labels(table: Table, column: str) -> np.ndarray:
    """Kinds of feedback of a column that holds their labels, or `Feedback` values."""
    values = table.full_column(column, "feedback")
    if pd.api.types.is_integer_dtype(values.dtype):
        return _values_of_feedback(table, column, values)
    try:
        codes, labels = pd.factorize(values)
    except TypeError:  # of JSON's lists and objects
        wrong = ~values.map(pd.api.types.is_hashable).to_numpy(dtype=bool)
        table.refuse(wrong, column, "is not a kind of feedback; give labels or write rules")
        raise  # pragma: no cover - `refuse` has raised
    kinds = np.empty(len(labels), dtype=np.int8)
    for index, label in enumerate(labels):
        try:
            is_kind = isinstance(label, Feedback)
            kinds[index] = label if is_kind else Feedback.from_label(label)
        except ValueError as error:
            row = int((codes == index).argmax())
            raise DataError(
                f"{table.place(row)}, column {column!r}: {error}; for other words, write rules, "
                f"such as explicit_positive = \"{column} == 'like'\""
            ) from None
    return kinds[codes]


def _values_of_feedback(table: Table, column: str, values: pd.Series) -> np.ndarray:
    """Kinds of feedback of a column that pandas made of `Feedback` values."""
    kinds = values.to_numpy(dtype=np.int64)
    table.refuse(
        (kinds < 0) | (kinds >= len(Feedback)),
        column,
        "is not a kind of feedback; give labels such as explicit_positive, or write rules",
    )
    if kinds.max() <= 1 and len(kinds) > 1:
        raise DataError(
            f"{table.source}, column {column!r}: 0 and 1 may be thumbs or values of Feedback "
            "(explicit and implicit positive); give labels such as explicit_positive, or "
            f'write rules, such as explicit_positive = "{column} == 1"'
        )
    meaning = ", ".join(f"{kind.value} {kind.label}" for kind in Feedback)
    warnings.warn(
        f"{table.source}, column {column!r}: numbers are read as values of Feedback ({meaning})",
        stacklevel=4,
    )
    return kinds.astype(np.int8)


def _warn_of_missing_words(table: Table, column: str, ids: pd.Series) -> None:
    """Warns about ids that look like missing values, in files without types."""
    if not table.from_text:
        return
    for word, number in (
        ids[ids.isin(["NULL", "null", "NaN", "nan", "None"])].value_counts().items()
    ):
        warnings.warn(
            f"{table.source}, column {column!r}: {word!r} is read as an id "
            f"({count(number, 'row')}); drop these rows if it means a missing id",
            stacklevel=3,
        )


def fit_ids(
    table: Table, column: str, ids: pd.Series, matched: np.ndarray
) -> tuple[Vocabulary, np.ndarray]:
    """The vocabulary of the ids of some rows, and their indices.

    Args:
        table: The table.
        column: Name of the column, for errors.
        ids: The ids of all rows.
        matched: The rows, int64 ``[M]``.

    Raises:
        DataError: If an id cannot be kept unchanged.
    """
    try:
        return Vocabulary.fit(ids.iloc[matched])
    except IdError as error:
        place = table.place(int(matched[error.row]))
        raise DataError(f"{place}, column {column!r}: {error.reason}") from error
    except ValueError as error:
        raise DataError(f"{table.source}, column {column!r}: {error}") from error


def _fit(
    table: Table, column: str, ids: pd.Series, matched: np.ndarray
) -> tuple[Vocabulary, np.ndarray]:
    """The same; digits in a file without types become integers if all ids survive it."""
    vocabulary, index = fit_ids(table, column, ids, matched)
    if table.from_text:
        texts = pd.Series(vocabulary.ids, dtype=object)
        # No leading zeros or signs of plus, and few enough digits for int64.
        if texts.str.fullmatch(r"0|-?[1-9][0-9]{0,17}").all():
            vocabulary = Vocabulary(texts.astype(np.int64))
    return vocabulary, index
