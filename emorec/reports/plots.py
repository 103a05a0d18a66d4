"""The plot of likes against dislikes, a point per model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from emorec.reports.figure import (
    ACCENT,
    INK,
    PAGE,
    SECOND,
    SOFT,
    STANDALONE,
    inline_svg,
    new_figure,
)
from emorec.reports.labels import place_labels

__all__ = ["plane_svg"]

_PLANE_X = {
    "disliked_share": "disliked share of the held-out items hit",
    "dislike_rate": "disliked share of the lists' {k} places",
    "recall_dislikes": "Recall@{k} of dislikes",
    "ndcl": "nDCL@{k}",
}


def plane_svg(
    summaries: Mapping[str, Mapping[str, float]],
    k: int,
    *,
    x: str = "disliked_share",
    curves: Mapping[str, Sequence[Mapping[str, float]]] | None = None,
    standalone: bool = False,
    name: str = "plane",
    size: tuple[float, float] = (8.4, 5.0),
) -> str:
    """NDCG of likes against dislikes, a point per model.

    What no other beats on both axes is coloured. Without curves such models are joined: the
    frontier. Models without a value on one of the axes are not drawn.

    Args:
        summaries: What `Evaluation.summary` returns, by model name.
        k: Length of the lists.
        x: What to put on the horizontal axis: "disliked_share", "dislike_rate",
            "recall_dislikes" or "ndcl".
        curves: Summaries of one model at several settings, in the order to join them, by name. A
            curve that has the name of a model takes its label from it.
        standalone: Whether the SVG is to be a file of its own rather than part of the report; it
            then brings its colours, for light and for dark, and its font.
        name: What ids in the SVG begin with; two plots of one page must differ in it.
        size: Width and height in inches of 72 pixels.

    Raises:
        PlotsUnavailable: If matplotlib is not installed.
        ValueError: If ``x`` is none of the above.
    """
    if x not in _PLANE_X:
        raise ValueError(f"x must be one of {', '.join(_PLANE_X)}, got {x!r}")

    def place(summary: Mapping[str, float]) -> tuple[float, float]:
        return summary[x], summary["ndcg_likes"]

    models = {model: p for model, row in summaries.items() if _is_finite(p := place(row))}
    lines = {
        model: [p for row in rows if _is_finite(p := place(row))]
        for model, rows in (curves or {}).items()
    }
    everything = [*models.values(), *(p for line in lines.values() for p in line)]
    frontier = {p for p in everything if not any(_beats(other, p) for other in everything)}
    with new_figure(*size) as figure:
        axes = figure.add_subplot()
        axes.set_xlabel(_PLANE_X[x].format(k=k) + " (lower is better)")
        axes.set_ylabel(f"NDCG@{k} of likes (higher is better)")
        axes.margins(0.1)
        if not curves:
            axes.plot(*_columns(sorted(frontier)), color=ACCENT, lw=1, ls=(0, (4, 3)))
        for index, line in enumerate(lines.values()):
            colour = (ACCENT, SECOND, SOFT)[index % 3]
            axes.plot(*_columns(line), color=colour, lw=1.8, marker="o", ms=4, mec=PAGE, mew=0.8)
        for point in models.values():
            colour = ACCENT if point in frontier else SOFT
            axes.plot(*point, "o", ms=8, color=colour, mec=PAGE, mew=1.2)
        figure.draw_without_rendering()  # places the axes, which the labels are measured against
        # A curve's name stands at its middle.
        labels = {model: line[len(line) // 2] for model, line in lines.items() if line} | models
        strong = {model for model in labels if labels[model] in frontier or model in lines}
        texts = [
            axes.annotate(
                " ".join(model.split()),
                point,
                xytext=(0, 0),
                textcoords="offset points",
                color=INK if model in strong else SOFT,
                weight="bold" if model in strong else "normal",
                parse_math=False,
            )
            for model, point in labels.items()
        ]
        joined = [*lines.values()] if curves else [sorted(frontier)]
        place_labels(texts, [*models.values()], joined, leader_colour=SOFT)
        svg = inline_svg(figure, name, f"NDCG@{k} of likes against {_PLANE_X[x].format(k=k)}")
    return svg.replace(">", f">{STANDALONE}", 1) if standalone else svg


def _is_finite(point: tuple[float, float]) -> bool:
    return all(map(math.isfinite, point))


def _beats(a: tuple[float, float], b: tuple[float, float]) -> bool:
    """Whether a is nowhere worse than b, and somewhere better."""
    return a[0] <= b[0] and a[1] >= b[1] and a != b


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]
