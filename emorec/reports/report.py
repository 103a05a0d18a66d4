"""Results as one self-contained HTML page."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd

from emorec.data.feedback import Feedback
from emorec.evaluation.significance import confidence_intervals
from emorec.evaluation.top_k import Evaluation
from emorec.reports.curves import Curves, curves_svgs
from emorec.reports.examples import Example, examples_html
from emorec.reports.figure import PlotsUnavailable
from emorec.reports.frames import frame_html
from emorec.reports.glossary import glossary_html
from emorec.reports.head import Head, head_html
from emorec.reports.page import PAGE
from emorec.reports.plots import plane_svg
from emorec.reports.reliability import reliability_svg
from emorec.reports.tables import (
    COLUMNS,
    GROUPS,
    PREDICTIONS,
    Column,
    Summary,
    best_marked,
    coverage,
    mark_of,
    summary_of,
)
from emorec.storage.files import write_text

__all__ = ["Card", "Summary", "write_report"]

Card = Mapping[str, str | int | Mapping[str, int]]
"""Facts about the data by name; a mapping of counts is drawn as a bar of their shares."""

_KINDS = {kind.label.replace("_", " "): kind for kind in Feedback}
_POPULARITY = {
    "coverage": "coverage",
    "popular_share": "popular items",
    "popularity_rank": "popularity rank",
    "gini": "Gini",
}
_RANKS = "popularity_rank", "gini"
_NARROW = 4.8, 5.2  # inches of the plane on a phone
_NONE: Mapping[str, Any] = MappingProxyType({})


def write_report(
    path: str | Path,
    *,
    title: str,
    card: Card,
    results: Mapping[str, Evaluation | Summary],
    k: int,
    head: Head | None = None,
    predictions: Mapping[str, Mapping[str, float]] = _NONE,
    calibration: Mapping[str, pd.DataFrame] = _NONE,
    popularity: Mapping[str, Mapping[str, float]] = _NONE,
    learned: Mapping[str, pd.DataFrame] = _NONE,
    curves: Sequence[Curves] = (),
    examples: Sequence[Example] = (),
    examples_note: str = "",
    notes: Sequence[str] = (),
) -> None:
    """Writes one HTML page without external resources.

    It says what was run, how good it is, what it learned and what some users would get. The same
    arguments make the same bytes. Plots need matplotlib (``pip install "emorec[plots]"``); without
    it, the page has a note.

    Args:
        path: File to write, replaced as a whole or not at all.
        title: Heading of the page.
        card: Facts about the data.
        results: Evaluation or its summary by model name.
        k: Length of the lists.
        head: How the run was made.
        predictions: Results of `emorec.evaluation.predictions.evaluate_predictions`, by model name.
        calibration: Those of `emorec.evaluation.calibration.reliability`, likewise.
        popularity: Those of `emorec.evaluation.popularity.popularity_of_lists`, likewise.
        learned: Tables of what the model learned, by heading.
        curves: What happened in training, part by part. Empty for a model that is not trained by
            epochs.
        examples: Users with their lists.
        examples_note: How the users were chosen.
        notes: Lines about the results, such as the settings of baselines.

    Raises:
        ValueError: If a summary lacks a column, or an evaluation has another k.
        OSError: If the file cannot be written; a file that was there before is then untouched.
    """
    summaries = {name: summary_of(row, k, name) for name, row in results.items()}
    training = plane = reliability = ""
    try:
        training = "".join(
            _figures_html(curves_svgs(each, f"training-{index}"))
            for index, each in enumerate(curves)
        )
        if summaries:
            narrow = plane_svg(summaries, k, name="plane-narrow", size=_NARROW)
            plane = f'<figure class="wide">{plane_svg(summaries, k)}</figure>'
            plane += f'<figure class="narrow">{narrow}</figure>'
        if calibration:
            reliability = _figures_html([reliability_svg(calibration)])
    except PlotsUnavailable as reason:
        training = plane = f'<p class="note">{html.escape(str(reason))}</p>'
    intervals = {
        name: _half_widths(row) for name, row in results.items() if isinstance(row, Evaluation)
    }
    topics = {
        "lists": results,
        "marks": results,
        "intervals": intervals,
        "predictions": predictions,
        "popularity": popularity,
        "learned": learned,
        "training": any(each.refit_losses for each in curves),
    }
    page = PAGE.substitute(
        title=html.escape(title),
        head="" if head is None else _section("Run", head_html(head)),
        card=_card_html(card),
        results=_results_html(summaries, intervals, k, notes),
        predictions=_predictions_html(predictions),
        popularity=_popularity_html(popularity),
        terms=glossary_html([topic for topic, shown in topics.items() if shown]),
        plane=plane or '<p class="note">No results.</p>',
        calibration=_calibration_html(calibration, reliability),
        training=training or '<p class="note">Nothing here is trained by epochs.</p>',
        learned=_section(
            "What the model learned",
            _learned_html(learned),
        ),
        examples=_section("Users", examples_html(examples, examples_note)),
        k=k,
    )
    write_text(Path(path), page)


def _section(heading: str, content: str) -> str:
    """A section, or nothing where it has no content."""
    return f"<section>\n<h2>{heading}</h2>\n{content}\n</section>" if content else ""


def _figures_html(svgs: Sequence[str]) -> str:
    return f'<div class="figures">{"".join(f"<figure>{svg}</figure>" for svg in svgs)}</div>'


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
            f'<li><i class="{colour}"></i>{html.escape(label.replace("_", " "))} '
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
    notes: Sequence[str],
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
    return (
        f'<div class="scroll"><table><thead><tr><th rowspan="2" scope="col">model</th>{groups}</tr>'
        f"<tr>{labels}</tr></thead><tbody>{body}</tbody></table></div>"
        + "".join(
            f'<p class="note">{html.escape(line)}.</p>'
            for line in [*coverage(list(summaries.values())), *notes]
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
    )


def _popularity_html(popularity: Mapping[str, Mapping[str, float]]) -> str:
    if not popularity:
        return ""
    frame = pd.DataFrame(
        [
            [name, *(_percent(row["coverage"]), _percent(row["popular_share"]))]
            + ["-" if math.isnan(row[key]) else f"{row[key]:.3f}" for key in _RANKS]
            for name, row in popularity.items()
        ],
        columns=["model", *_POPULARITY.values()],
    )
    return f"<h3>Popularity and coverage of the lists</h3>{frame_html(frame)}"


def _learned_html(tables: Mapping[str, pd.DataFrame]) -> str:
    content = "".join(
        f"<h3>{html.escape(name)}</h3>{frame_html(table)}" for name, table in tables.items()
    )
    return f'<div class="learned">{content}</div>' if content else ""


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.1f} %"


def _calibration_html(calibration: Mapping[str, pd.DataFrame], plot: str) -> str:
    if not calibration:
        return ""
    table = pd.concat(
        [frame.assign(model=name) for name, frame in calibration.items()], ignore_index=True
    )[["model", "events", "predicted", "observed"]]
    content = (
        f'{plot}<p class="note">Held-out events in ten bins of about equal numbers, by predicted '
        "P(liked). On the dashed line, as many events are positive as predicted. Bars: one "
        "standard error.</p>"
        f"<details><summary>Figures of the bins</summary>{frame_html(table.round(3))}</details>"
    )
    return _section("Calibration of the predicted P(liked)", content)


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
