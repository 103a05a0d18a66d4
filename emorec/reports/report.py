"""Results as one self-contained HTML page."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from emorec.data.feedback import Feedback
from emorec.evaluation.significance import confidence_intervals
from emorec.evaluation.top_k import Evaluation
from emorec.reports.page import PAGE
from emorec.reports.plots import PlotsUnavailable, plane_svg, training_svg
from emorec.reports.tables import (
    COLUMNS,
    GROUPS,
    PREDICTIONS,
    Column,
    Summary,
    best_marked,
    coverage,
    mark_of,
    marks_explained,
    summary_of,
)
from emorec.storage.files import write_text

__all__ = ["Card", "Summary", "write_report"]

Card = Mapping[str, str | int | Mapping[str, int]]
"""Facts about the data by name; a mapping of counts is drawn as a bar of their shares."""

_KINDS = {kind.label.replace("_", " "): kind for kind in Feedback}


def write_report(
    path: str | Path,
    *,
    title: str,
    card: Card,
    results: Mapping[str, Evaluation | Summary],
    k: int,
    predictions: Mapping[str, Mapping[str, float]] = MappingProxyType({}),
    curves: Sequence[Mapping[str, float | None]] = (),
    metric: str = "ndcg_any",
    notes: Sequence[str] = (),
) -> None:
    """Writes one HTML page without external resources: data, results, training, trade-off.

    Plots need matplotlib (``pip install "emorec[plots]"``); without it, the page has a note.

    Args:
        path: File to write, replaced as a whole or not at all.
        title: Heading of the page.
        card: Facts about the data.
        results: Evaluation or its summary by model name.
        k: Length of the lists.
        predictions: Results of `emorec.evaluation.predictions.evaluate_predictions`, by model name.
        curves: One mapping per epoch with "epoch", "loss" and ``metric``, None where it was not
            measured. Empty for a model that is not trained by epochs.
        metric: Name of the validation metric in ``curves``.
        notes: Lines about the results, such as the settings of baselines.

    Raises:
        ValueError: If a summary lacks a column, an evaluation has another k, or no epoch has
            ``metric``.
        OSError: If the file cannot be written; a file that was there before is then untouched.
    """
    summaries = {name: summary_of(row, k, name) for name, row in results.items()}
    known = {key for epoch in curves for key in epoch}
    if curves and metric not in known:
        raise ValueError(
            f"no epoch of the curves has {metric!r}; they have {', '.join(sorted(known))}"
        )
    try:
        training = f"<figure>{training_svg(curves, metric)}</figure>" if curves else ""
        plane = f"<figure>{plane_svg(summaries, k)}</figure>" if summaries else ""
    except PlotsUnavailable as reason:
        training = plane = f'<p class="note">{html.escape(str(reason))}</p>'
    intervals = {
        name: _half_widths(row) for name, row in results.items() if isinstance(row, Evaluation)
    }
    page = PAGE.substitute(
        title=html.escape(title),
        card=_card_html(card),
        results=_results_html(summaries, intervals, k, notes),
        predictions=_predictions_html(predictions),
        training=training or '<p class="note">Nothing here is trained by epochs.</p>',
        plane=plane or '<p class="note">No results.</p>',
        k=k,
    )
    write_text(Path(path), page)


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


def _results_html(
    summaries: Mapping[str, Summary],
    intervals: Mapping[str, Mapping[str, float]],
    k: int,
    more_notes: Sequence[str],
) -> str:
    cells = best_marked(summaries, k)
    groups = "".join(
        f'<th class="group" colspan="{span}" scope="colgroup">{group}</th>'
        for group, span in GROUPS.items()
    )
    labels = "".join(
        f'<th scope="col"{_first_of_group(index)}>{column.label}'
        f"{' ↓' if column.lower_is_better else ''}</th>"
        for index, column in enumerate(COLUMNS)
    )
    body = "".join(
        f'<tr><th scope="row">{html.escape(name)}</th>'
        + "".join(
            f"<td{_first_of_group(index)}>"
            f"{f'<strong>{cell.text}</strong>' if cell.is_best else cell.text + mark_of(cell)}"
            f"{_interval_html(intervals.get(name, {}), COLUMNS[index])}</td>"
            for index, cell in enumerate(row)
        )
        + "</tr>"
        for name, row in cells.items()
    )
    notes = [
        *(
            line.replace("* best", "Bold: best").replace("+ no", "+: no")
            for line in marks_explained(cells)
        ),
        "nDCL: how high in the lists dislikes stand, from 0 to 1, the worst possible order. "
        "Both: NDCG of likes minus NDCG of dislikes, over users who have both",
    ]
    if intervals:
        notes.append("±: half the width of the 95 % confidence interval over users, by bootstrap")
    return (
        f'<table><thead><tr><th rowspan="2" scope="col">model</th>{groups}</tr>'
        f"<tr>{labels}</tr></thead><tbody>{body}</tbody></table>"
        + "".join(
            f'<p class="note">{html.escape(line)}.</p>'
            for line in [*notes, *coverage(list(summaries.values())), *more_notes]
        )
    )


def _predictions_html(predictions: Mapping[str, Mapping[str, float]]) -> str:
    if not predictions:
        return ""
    labels = "".join(f'<th scope="col">{label}</th>' for label in PREDICTIONS.values())
    body = "".join(
        f'<tr><th scope="row">{html.escape(name)}</th>'
        + "".join(
            f"<td>{'-' if math.isnan(values[key]) else f'{values[key]:.4f}'}</td>"
            for key in PREDICTIONS
        )
        + "</tr>"
        for name, values in predictions.items()
    )
    return (
        "<h3>Predicted polarity of the held-out events</h3>"
        '<div class="scroll"><table><thead><tr><th scope="col" class="model">model</th>'
        f"{labels}</tr></thead><tbody>{body}</tbody></table></div>"
        '<p class="note">PolAUC: how often a like is ranked above a dislike of the same user; '
        "ROC-AUC: of any user. Brier: mean squared error of the probabilities; ECE: expected "
        "calibration error. ItemPrior: the share of positive reactions to an item.</p>"
    )


def _half_widths(row: Evaluation) -> dict[str, float]:
    """Half of the confidence interval of each figure that has one."""
    table = confidence_intervals(row.per_user)
    widths = ((table["high"] - table["low"]) / 2).dropna()
    return {str(name): float(width) for name, width in widths.items()}


def _interval_html(half_widths: Mapping[str, float], column: Column) -> str:
    if column.key not in half_widths:
        return ""
    return f"<br><small>±{half_widths[column.key]:.{column.decimals}f}</small>"


def _first_of_group(index: int) -> str:
    is_first = index == 0 or COLUMNS[index].group != COLUMNS[index - 1].group
    return ' class="first"' if is_first else ""
