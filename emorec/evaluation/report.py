"""Results as a table for the terminal, as Markdown, and as one self-contained HTML page."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from emorec.data.feedback import Feedback
from emorec.evaluation.page import PAGE
from emorec.evaluation.plots import PlotsUnavailable, plane_svg, training_svg
from emorec.evaluation.ranking import Evaluation
from emorec.files import write_text

__all__ = ["Card", "Summary", "results_table", "to_markdown", "write_report"]

Summary = Mapping[str, float]
"""What `Evaluation.summary` returns."""

Card = Mapping[str, str | int | Mapping[str, int]]
"""Facts about the data by name; a mapping of counts is drawn as a bar of their shares."""


@dataclass(frozen=True)
class _Column:
    key: str  # in a summary
    group: str
    label: str
    lower_is_better: bool = False
    decimals: int = 4


@dataclass(frozen=True)
class _Cell:
    text: str
    is_best: bool


_COLUMNS = (
    _Column("recall_any", "any", "Recall"),
    _Column("ndcg_any", "any", "NDCG"),
    _Column("map_any", "any", "MAP"),
    _Column("recall_likes", "likes", "Recall"),
    _Column("ndcg_likes", "likes", "NDCG"),
    _Column("recall_dislikes", "dislikes", "Recall", lower_is_better=True),
    _Column("disliked_share", "dislikes", "share", lower_is_better=True, decimals=3),
)
_GROUPS = {group: len(list(columns)) for group, columns in groupby(_COLUMNS, lambda c: c.group)}
_GAP = "  "
_KINDS = {kind.label.replace("_", " "): kind for kind in Feedback}


def results_table(rows: Mapping[str, Evaluation | Summary], k: int) -> str:
    """Aligned text, one line per model; ``*`` marks the best value of each column.

    Args:
        rows: Evaluation or its summary by model name, in the order to print.
        k: Length of the lists, for the heading.

    Returns:
        Lines without a closing newline; undefined values are ``-``. The last line tells how many
        users the means leave out, where the summaries say so.

    Raises:
        ValueError: If a summary lacks a column or an evaluation has another k.
    """
    cells = _cells(rows, k)
    header = ["model", *(f"{column.label} " for column in _COLUMNS)]
    # The star's place is kept free in every cell so that digits stand below one another.
    body = [
        [_one_line(name), *(cell.text + ("*" if cell.is_best else " ") for cell in row)]
        for name, row in cells.items()
    ]
    widths = [max(map(len, column)) for column in zip(header, *body, strict=True)]
    groups, start = [f"@{k}".ljust(widths[0])], 1
    for group, span in _GROUPS.items():
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
    lines += _coverage([_summary(row, k, name) for name, row in rows.items()])
    return "\n".join(line.rstrip() for line in (_GAP.join(groups), *lines))


def to_markdown(rows: Mapping[str, Evaluation | Summary], k: int) -> str:
    """The same table as Markdown; the best value of each column is bold.

    Args:
        rows: Evaluation or its summary by model name, in the order to print.
        k: Length of the lists, for the heading.

    Returns:
        Lines without a closing newline; undefined values are ``-``.

    Raises:
        ValueError: If a summary lacks a column or an evaluation has another k.
    """
    labels = [_column_title(column, k) for column in _COLUMNS]
    body = [
        [_markdown_text(name)] + [f"**{cell.text}**" if cell.is_best else cell.text for cell in row]
        for name, row in _cells(rows, k).items()
    ]
    lines = [["model", *labels], ["---", *["---:"] * len(_COLUMNS)], *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_report(
    path: str | Path,
    *,
    title: str,
    card: Card,
    results: Mapping[str, Evaluation | Summary],
    k: int,
    curves: Sequence[Mapping[str, float | None]] = (),
    metric: str = "ndcg_any",
) -> None:
    """Writes one HTML page without external resources: data, results, training, trade-off.

    Plots need matplotlib (``pip install "emorec[plots]"``); without it the page says so instead.

    Args:
        path: File to write, replaced as a whole or not at all.
        title: Heading of the page.
        card: Facts about the data.
        results: Evaluation or its summary by model name.
        k: Length of the lists.
        curves: One mapping per epoch with "epoch", "loss" and, where it was measured, ``metric``.
            Empty for a model that is not trained by epochs.
        metric: Name of the validation metric in ``curves``.

    Raises:
        ValueError: If a summary lacks a column, an evaluation has another k, or no epoch has
            ``metric``.
        OSError: If the file cannot be written; a file that was there before is then untouched.
    """
    summaries = {name: _summary(row, k, name) for name, row in results.items()}
    if curves and all(epoch.get(metric) is None for epoch in curves):
        known = ", ".join(sorted({key for epoch in curves for key in epoch}))
        raise ValueError(f"no epoch of the curves has {metric!r}; they have {known}")
    try:
        training = f"<figure>{training_svg(curves, metric)}</figure>" if curves else ""
        plane = f"<figure>{plane_svg(summaries, k)}</figure>" if summaries else ""
    except PlotsUnavailable as reason:
        training = plane = f'<p class="note">{html.escape(str(reason))}</p>'
    page = PAGE.substitute(
        title=html.escape(title),
        card=_card_html(card),
        results=_results_html(summaries, k),
        training=training or '<p class="note">Nothing here is trained by epochs.</p>',
        plane=plane or '<p class="note">No results.</p>',
        k=k,
    )
    write_text(Path(path), page)


def _summary(row: Evaluation | Summary, k: int, name: str) -> Summary:
    if isinstance(row, Evaluation):
        if row.k != k:
            raise ValueError(f"{name!r} was evaluated at k = {row.k}, the table is for k = {k}")
        row = row.summary()
    for column in _COLUMNS:
        if column.key not in row:
            raise ValueError(f"the summary of {name!r} lacks {column.key!r}")
    return row


def _cells(rows: Mapping[str, Evaluation | Summary], k: int) -> dict[str, list[_Cell]]:
    summaries = {name: _summary(row, k, name) for name, row in rows.items()}
    cells: dict[str, list[_Cell]] = {name: [] for name in summaries}
    for column in _COLUMNS:
        # Values that print alike are equally good.
        values = {name: round(row[column.key], column.decimals) for name, row in summaries.items()}
        known = [value for value in values.values() if not math.isnan(value)]
        best = (min if column.lower_is_better else max)(known, default=math.nan)
        for name, value in values.items():
            text = "-" if math.isnan(value) else f"{value:.{column.decimals}f}"
            cells[name].append(_Cell(text, is_best=value == best and len(summaries) > 1))
    return cells


def _coverage(summaries: Sequence[Summary]) -> list[str]:
    """One line per distinct set of users behind the means."""
    keys = ("num_users", "left_out_any", "left_out_likes", "left_out_dislikes")
    counts = {tuple(row[key] for key in keys) for row in summaries if all(k in row for k in keys)}
    return [
        f"{users:,} users; left out of means for want of such items: "
        f"any {without_any:,}, likes {without_likes:,}, dislikes {without_dislikes:,}"
        for users, without_any, without_likes, without_dislikes in sorted(counts)
    ]


def _column_title(column: _Column, k: int) -> str:
    if column.key == "disliked_share":
        return "disliked share"
    return f"{column.label}@{k} {column.group}"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _markdown_text(text: str) -> str:
    escaped = html.escape(_one_line(text), quote=False)
    for mark in "\\`*_[]|":
        escaped = escaped.replace(mark, "\\" + mark)
    return escaped


def _card_html(card: Card) -> str:
    facts, bars = [], []
    for name, value in card.items():
        if isinstance(value, Mapping):
            bars.append(_bar_html(name, value))
        else:
            text = value if isinstance(value, str) else f"{value:,}"
            facts.append(f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd></div>")
    tiles = f'<dl class="facts">{"".join(facts)}</dl>' if facts else ""
    return tiles + "".join(bars)


def _bar_html(name: str, counts: Mapping[str, int]) -> str:
    total = sum(counts.values())
    segments, legend = [], []
    for index, (label, count) in enumerate(counts.items()):
        # Kinds of feedback keep their colours, green to red; everything else is neutral.
        kind = _KINDS.get(label.replace("_", " "))
        colour = f"n{index % 4}" if kind is None else f"k{kind.value}"
        percent = 100 * count / total if total else 0.0
        segments.append(f'<span class="{colour}" style="width:{percent:.3f}%"></span>')
        legend.append(
            f'<li><i class="{colour}"></i>{html.escape(label)} '
            f"<b>{count:,}</b> <small>{percent:.1f} %</small></li>"
        )
    return (
        f'<div class="shares"><h3>{html.escape(name)}</h3>'
        f'<div class="bar" aria-hidden="true">{"".join(segments)}</div>'
        f"<ul>{''.join(legend)}</ul></div>"
    )


def _results_html(summaries: Mapping[str, Summary], k: int) -> str:
    groups = "".join(
        f'<th class="group" colspan="{span}" scope="colgroup">{group}</th>'
        for group, span in _GROUPS.items()
    )
    labels = "".join(
        f'<th scope="col"{_first_of_group(index)}>{column.label}'
        f"{' ↓' if column.lower_is_better else ''}</th>"
        for index, column in enumerate(_COLUMNS)
    )
    body = "".join(
        f'<tr><th scope="row">{html.escape(name)}</th>'
        + "".join(
            f"<td{_first_of_group(index)}>"
            f"{f'<strong>{cell.text}</strong>' if cell.is_best else cell.text}</td>"
            for index, cell in enumerate(row)
        )
        + "</tr>"
        for name, row in _cells(summaries, k).items()
    )
    return (
        f'<table><thead><tr><th rowspan="2" scope="col">model</th>{groups}</tr>'
        f"<tr>{labels}</tr></thead><tbody>{body}</tbody></table>"
        + "".join(f'<p class="note">{line}.</p>' for line in _coverage(list(summaries.values())))
    )


def _first_of_group(index: int) -> str:
    is_first = index == 0 or _COLUMNS[index].group != _COLUMNS[index - 1].group
    return ' class="first"' if is_first else ""
