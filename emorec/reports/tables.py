"""Results as a table: aligned text for the terminal, and Markdown."""

from __future__ import annotations

import html
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import pandas as pd

from emorec.evaluation.significance import (
    compare,
    confidence_intervals,
    mean_over_seeds,
    over_seeds,
)
from emorec.evaluation.top_k import LOWER_IS_BETTER, Evaluation

__all__ = [
    "COLUMNS",
    "GROUPS",
    "PREDICTIONS",
    "Cell",
    "Column",
    "Summary",
    "best_marked",
    "comparison_markdown",
    "coverage",
    "mark_of",
    "marks_explained",
    "predictions_table",
    "results_table",
    "summary_of",
    "to_markdown",
]

Summary = Mapping[str, float]
"""What `Evaluation.summary` returns."""


@dataclass(frozen=True)
class Column:
    """A figure of the tables."""

    key: str  # in a summary
    group: str
    label: str
    decimals: int = 4

    @property
    def lower_is_better(self) -> bool:
        """Whether the best value is the lowest."""
        return self.key in LOWER_IS_BETTER


@dataclass(frozen=True)
class Cell:
    """A figure as it is printed.

    Attributes:
        text: The figure.
        is_best: Whether no other model has a better value, and some list hit anything. Columns of
            dislikes have no best value, because lists without relevant items have the fewest; for
            dNDCG such lists do not compete.
        is_on_front: Of dislikes: whether every model with fewer has fewer likes (NDCG), too, among
            those with at least half of the best's.
    """

    text: str
    is_best: bool = False
    is_on_front: bool = False


PREDICTIONS = {
    "polarity_auc": "PolAUC",
    "roc_auc": "ROC-AUC",
    "brier_score": "Brier",
    "calibration_error": "ECE",
}
"""Figures of predicted polarities and their labels."""

COLUMNS = (
    Column("recall_any", "any", "Recall"),
    Column("ndcg_any", "any", "NDCG"),
    Column("map_any", "any", "MAP"),
    Column("recall_likes", "likes", "Recall"),
    Column("ndcg_likes", "likes", "NDCG"),
    Column("recall_dislikes", "dislikes", "Recall"),
    Column("ndcl", "dislikes", "nDCL"),
    Column("disliked_share", "dislikes", "share", decimals=3),
    Column("delta_ndcg", "both", "dNDCG"),
)
GROUPS = {group: len(list(columns)) for group, columns in groupby(COLUMNS, lambda c: c.group)}
_KEYS = tuple(column.key for column in COLUMNS)
_COMPARISON_NOTE = (
    "±: standard deviation over seeds, where there are several. Below each mean: bootstrap 95 % "
    "confidence interval over users. Improv.: {ours} against the best other model of the column, "
    "positive where it is better. p-value: the greater of paired t-test and Wilcoxon signed-rank "
    "test (share: t-test), Holm-corrected over all models and columns; "
    r"\* p &lt; .05, \*\* p &lt; .01, \*\*\* p &lt; .001."
)
_MARKS = {
    "*": "* best of its column",
    "+": "+ no model with at least half of the best NDCG of likes has as many likes and fewer "
    "dislikes",
}
_LIKES_ENOUGH = 0.5  # of the best NDCG of likes
_GAP = "  "


def results_table(
    rows: Mapping[str, Evaluation | Summary], k: int, notes: Sequence[str] = ()
) -> str:
    """Aligned text, one line per model.

    ``*`` marks the best value of each column; ``+``, in the columns of dislikes, the front of likes
    against dislikes, because lists without relevant items also have few dislikes.

    Args:
        rows: Evaluation or its summary by model name, in the order to print.
        k: Length of the lists, for the heading.
        notes: Lines to print below.

    Returns:
        Lines without a closing newline; undefined values are ``-``. One of them counts the
        users who are not in the means, if the summaries have these counts.

    Raises:
        ValueError: If a summary lacks a column or an evaluation has another k.
    """
    cells = best_marked(rows, k)
    header = ["model", *(f"{column.label} " for column in COLUMNS)]
    # The mark's place is kept free in every cell so that digits stand below one another.
    body = [
        [_one_line(name), *(cell.text + (mark_of(cell) or " ") for cell in row)]
        for name, row in cells.items()
    ]
    widths = [max(map(len, column)) for column in zip(header, *body, strict=True)]
    groups, start = [f"@{k}".ljust(widths[0])], 1
    for group, span in GROUPS.items():
        width = sum(widths[start : start + span]) + len(_GAP) * (span - 1) - 1
        groups.append(f" {group} ".center(width, "-") + " ")
        start += span
    lines = [
        _GAP.join(
            [row[0].ljust(widths[0])]
            + [text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True)]
        )
        for row in (header, *body)
    ]
    lines += marks_explained(cells)
    lines += coverage([summary_of(row, k, name) for name, row in rows.items()])
    return "\n".join(line.rstrip() for line in (_GAP.join(groups), *lines, *notes))


def mark_of(cell: Cell) -> str:
    """The mark behind a figure."""
    return "*" if cell.is_best else "+" if cell.is_on_front else ""


def marks_explained(cells: Mapping[str, Sequence[Cell]]) -> list[str]:
    """A line for each mark that occurs."""
    present = {mark_of(cell) for row in cells.values() for cell in row}
    return [line for mark, line in _MARKS.items() if mark in present]


def predictions_table(rows: Mapping[str, Summary]) -> str:
    """Aligned text of how well polarities were predicted, one line per model.

    Args:
        rows: What `evaluate_predictions` returns, by model name, in the order to print.
    """
    table = pd.DataFrame([dict(row) for row in rows.values()], list(rows), list(PREDICTIONS))
    return table.rename(columns=PREDICTIONS).to_string(float_format="{:.4f}".format, na_rep="-")


def to_markdown(rows: Mapping[str, Evaluation | Summary], k: int) -> str:
    """The same table as Markdown; bold stands for ``*``.

    Args:
        rows: Evaluation or its summary by model name, in the order to print.
        k: Length of the lists, for the heading.

    Returns:
        Lines without a closing newline; undefined values are ``-``.

    Raises:
        ValueError: If a summary lacks a column or an evaluation has another k.
    """
    body = [
        [_markdown_text(name), *(_markdown_cell(cell) for cell in row)]
        for name, row in best_marked(rows, k).items()
    ]
    lines = [*_markdown_head(k), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def comparison_markdown(
    models: Mapping[str, Evaluation | Sequence[Evaluation]],
    k: int,
    ours: str,
    no_peers: Collection[str] = (),
) -> str:
    """The table with how sure it is: spread, intervals, and one model against the best other.

    Args:
        models: Evaluation by model name, in the order to print; or the evaluations of several runs
            that differ in their seed, of which each user's mean is shown and tested.
        k: Length of the lists, for the heading.
        ours: The model that is compared with the others.
        no_peers: Others that it is not compared with, such as its own variants or chance.

    Returns:
        Markdown: each mean with its standard deviation over seeds, where there are several, and
        its bootstrap 95 % confidence interval over users below; two more rows, the improvement on
        the best other model in %, positive where ours is better, and its p-value, the greater of
        the paired t-test's and Wilcoxon's, with Holm's correction over all cells; and a line that
        says so.

    Raises:
        ValueError: If there is no model ``ours`` or no other, an evaluation has another k, or the
            runs of a model are of different users.
    """
    runs = {
        name: [given] if isinstance(given, Evaluation) else list(given)
        for name, given in models.items()
    }
    spread = {
        name: over_seeds([summary_of(run, k, name) for run in own])["sd"].to_dict()
        for name, own in runs.items()
    }
    rows = {
        name: Evaluation(k, mean_over_seeds([run.per_user for run in own]))
        for name, own in runs.items()
    }
    lines = _markdown_head(k)
    for name, cells in best_marked(rows, k).items():
        intervals = _interval_texts(rows[name])
        lines.append([_markdown_text(name)])
        for column, cell, interval in zip(COLUMNS, cells, intervals, strict=True):
            deviation = spread[name][column.key]
            lines[-1].append(
                _markdown_cell(cell)
                + ("" if math.isnan(deviation) else f" ±{_short(deviation, column.decimals)}")
                + (f"<br><sub>{interval}</sub>" if interval else "")
            )
    compared = {name: row.per_user for name, row in rows.items() if name not in no_peers}
    table = compare(compared, ours, _KEYS)
    best = table[table["best"]].reset_index("peer").reindex(list(_KEYS))
    p_values = best[["holm_t", "holm_wilcoxon"]].max(axis=1)  # of the tests that there are
    improvements = [
        "-"
        if math.isnan(value)
        else f"{value:+.1f} %{_stars(p)}<br><sub>{_markdown_text(peer)}</sub>"
        for value, p, peer in zip(best["improvement"], p_values, best["peer"], strict=True)
    ]
    lines.append(["Improv.", *improvements])
    lines.append(["p-value", *(_p_text(p) for p in p_values)])
    note = _COMPARISON_NOTE.format(ours=_markdown_text(ours))
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), "", note])


def summary_of(row: Evaluation | Summary, k: int, name: str) -> Summary:
    """The summary of a row, with all columns.

    Raises:
        ValueError: If it lacks a column, or is an evaluation with another k.
    """
    if isinstance(row, Evaluation):
        if row.k != k:
            raise ValueError(f"{name!r} was evaluated at k = {row.k}, the table is for k = {k}")
        row = row.summary()
    for column in COLUMNS:
        if column.key not in row:
            raise ValueError(f"the summary of {name!r} lacks {column.key!r}")
    return row


def best_marked(rows: Mapping[str, Evaluation | Summary], k: int) -> dict[str, list[Cell]]:
    """Every row's cells, with the best of each column and the front of dislikes marked."""
    summaries = {name: summary_of(row, k, name) for name, row in rows.items()}
    cells: dict[str, list[Cell]] = {name: [] for name in summaries}
    likes = {name: row["ndcg_likes"] for name, row in summaries.items()}
    competing = _competing(likes)
    for column in COLUMNS:
        # Values that print alike are equally good.
        values = {name: round(row[column.key], column.decimals) for name, row in summaries.items()}
        front: set[str] = set()
        best = math.nan
        if column.lower_is_better:
            front = _front({name: likes[name] for name in competing}, values)
        else:
            rivals = competing if column.key == "delta_ndcg" else values
            best = _best([values[name] for name in rivals])
        for name, value in values.items():
            text = "-" if math.isnan(value) else f"{value:.{column.decimals}f}"
            is_best = value == best and len(rows) > 1
            cells[name].append(Cell(text, is_best, name in front and len(rows) > 1))
    return cells


def _competing(likes: Mapping[str, float]) -> list[str]:
    """Models with at least half of the best NDCG of likes."""
    most = max((value for value in likes.values() if not math.isnan(value)), default=0.0)
    return [name for name, value in likes.items() if most and value >= _LIKES_ENOUGH * most]


def _best(values: Sequence[float]) -> float:
    """The largest value; NaN where all are 0, as no list hit anything then."""
    known = [value for value in values if not math.isnan(value)]
    return max(known) if any(known) else math.nan


def _front(likes: Mapping[str, float], dislikes: Mapping[str, float]) -> set[str]:
    """Names of the models that none beats at likes and dislikes at once; see `Cell`."""
    known = [name for name in likes if not math.isnan(dislikes[name])]
    if not any(dislikes[name] for name in known):
        return set()

    def beats(one: str, other: str) -> bool:
        more, fewer = likes[one] - likes[other], dislikes[other] - dislikes[one]
        return more >= 0 and fewer >= 0 and more + fewer > 0

    return {name for name in known if not any(beats(other, name) for other in known)}


def _interval_texts(row: Evaluation) -> list[str]:
    """The confidence interval of each column, empty where it is undefined."""
    table = confidence_intervals(row.per_user)
    lows, highs = table["low"].to_dict(), table["high"].to_dict()
    texts = []
    for column in COLUMNS:
        low, high = lows[column.key], highs[column.key]
        ends = f"{_short(low, column.decimals)}–{_short(high, column.decimals)}"
        texts.append("" if math.isnan(low) else ends)
    return texts


def _short(value: float, decimals: int) -> str:
    """Without the zero before the point."""
    text = f"{value:.{decimals}f}"
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


def _p_text(p: float) -> str:
    if math.isnan(p):
        return "-"
    return "&lt;.0001" if p < 0.0001 else _short(p, 4)


def _stars(p: float) -> str:
    return r"\*" * sum(p < level for level in (0.05, 0.01, 0.001))


def coverage(summaries: Sequence[Summary]) -> list[str]:
    """One line per distinct set of users behind the means, for summaries with these counts."""
    kinds = ("any", "likes", "dislikes", "both")
    keys = ("num_users", *(f"left_out_{kind}" for kind in kinds))
    counts = {tuple(row[key] for key in keys) for row in summaries if all(k in row for k in keys)}
    return [
        f"{users:,} users; without such held-out items, and so not in the means: "
        + ", ".join(f"{kind} {count:,}" for kind, count in zip(kinds, left_out, strict=True))
        for users, *left_out in sorted(counts)
    ]


def _markdown_head(k: int) -> list[list[str]]:
    titles = [_column_title(column, k) for column in COLUMNS]
    return [["model", *titles], ["---", *["---:"] * len(COLUMNS)]]


def _column_title(column: Column, k: int) -> str:
    if column.key == "disliked_share":
        return "disliked share"
    own_name = column.key in ("ndcl", "delta_ndcg")
    return f"{column.label}@{k}" + ("" if own_name else f" {column.group}")


def _markdown_cell(cell: Cell) -> str:
    return f"**{cell.text}**" if cell.is_best else cell.text + mark_of(cell)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _markdown_text(text: str) -> str:
    escaped = html.escape(_one_line(text), quote=False)
    for mark in "\\`*_[]|":
        escaped = escaped.replace(mark, "\\" + mark)
    return escaped
