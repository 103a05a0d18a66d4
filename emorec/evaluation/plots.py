"""Plots of the report as inline SVG that takes its colours and fonts from the page around it."""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

__all__ = ["PlotsUnavailable", "plane_svg", "training_svg"]

# Colours that stand for the page's own; matplotlib writes them, `_inline_svg` replaces them.
_INK, _SOFT, _LINE, _ACCENT, _SECOND, _PAGE = (f"#01020{digit}" for digit in range(1, 7))
_PAGE_COLOURS = {
    _INK: "var(--ink)",
    _SOFT: "var(--soft)",
    _LINE: "var(--line)",
    _ACCENT: "var(--accent)",
    _SECOND: "var(--second)",
    _PAGE: "var(--page)",
}
_STYLE: Any = {
    "svg.hashsalt": "emorec",  # the same figure, the same bytes
    "svg.fonttype": "none",  # text stays text: selectable, and in the page's font
    "font.size": 10,
    "text.color": _INK,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": _LINE,
    "grid.linewidth": 0.6,
    "xtick.color": _LINE,
    "ytick.color": _LINE,
    "xtick.labelcolor": _SOFT,
    "ytick.labelcolor": _SOFT,
}
# Where a label may stand beside its point, best place first: offset in points, alignment.
_LABEL_PLACES = (
    ((7, 0), "left", "center"),
    ((-7, 0), "right", "center"),
    ((0, 7), "center", "bottom"),
    ((0, -7), "center", "top"),
    ((6, 6), "left", "bottom"),
    ((6, -6), "left", "top"),
    ((-6, 6), "right", "bottom"),
    ((-6, -6), "right", "top"),
)


class PlotsUnavailable(ImportError):
    """Matplotlib is not installed."""


def training_svg(curves: Sequence[Mapping[str, float | None]], metric: str) -> str:
    """Loss and validation metric by epoch, the best epoch marked.

    Args:
        curves: One mapping per epoch with "epoch", "loss" and ``metric``; values may be missing.
        metric: Name of the validation metric; higher is better.

    Raises:
        PlotsUnavailable: If matplotlib is not installed.
    """
    with _figure(8.4, 2.8) as figure:
        for place, key, colour, title in (
            (1, "loss", _SECOND, "training loss"),
            (2, metric, _ACCENT, f"validation {metric}"),
        ):
            axes = figure.add_subplot(1, 2, place)
            points = [
                (epoch["epoch"], value)
                for epoch in curves
                if (value := epoch.get(key)) is not None and math.isfinite(value)
            ]
            axes.set_title(title, loc="left", fontsize=10, color=_INK, parse_math=False)
            axes.set_xlabel("epoch")
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.margins(y=0.2)
            if not points:
                continue
            marker = "o" if len(points) <= 40 else ""
            axes.plot(*zip(*points, strict=True), color=colour, lw=1.8, marker=marker, ms=3.5)
            if key == metric:
                best = max(points, key=lambda point: point[1])
                axes.plot(*best, "o", ms=9, mfc="none", mec=colour, mew=1.5)
                axes.annotate(
                    f"{best[1]:.4f}", best, (0, 8), textcoords="offset points", ha="center"
                )
        return _inline_svg(figure, "training", f"Training loss and validation {metric} by epoch")


def plane_svg(summaries: Mapping[str, Mapping[str, float]], k: int) -> str:
    """NDCG of likes against the disliked share, a point per model.

    Models that no other beats on both axes are coloured and joined: the frontier. Models without
    a value on one of the axes are not drawn.

    Args:
        summaries: What `Evaluation.summary` returns, by model name.
        k: Length of the lists.

    Raises:
        PlotsUnavailable: If matplotlib is not installed.
    """
    points = {
        name: (summary["disliked_share"], summary["ndcg_likes"])
        for name, summary in summaries.items()
        if math.isfinite(summary["disliked_share"]) and math.isfinite(summary["ndcg_likes"])
    }
    frontier = {
        name
        for name, (share, ndcg) in points.items()
        if not any(s <= share and n >= ndcg and (s, n) != (share, ndcg) for s, n in points.values())
    }
    with _figure(8.4, 4.6) as figure:
        axes = figure.add_subplot()
        axes.set_xlabel("disliked share of the held-out items hit (lower is better)")
        axes.set_ylabel(f"NDCG@{k} of likes (higher is better)")
        axes.margins(0.14)
        edge = sorted(points[name] for name in frontier)
        axes.plot([x for x, _ in edge], [y for _, y in edge], color=_ACCENT, lw=1, ls=(0, (4, 3)))
        for name, point in points.items():
            colour = _ACCENT if name in frontier else _SOFT
            axes.plot(*point, "o", ms=8, color=colour, mec=_PAGE, mew=1.2)
        figure.draw_without_rendering()  # places the axes, which the labels are measured against
        _label_points(axes, points, frontier)
        return _inline_svg(figure, "plane", f"NDCG@{k} of likes against disliked share")


def _label_points(axes: Any, points: Mapping[str, tuple[float, float]], frontier: set[str]) -> None:
    """Puts each name where it covers least of the points, of other names and of the margin."""
    renderer = axes.figure.canvas.get_renderer()
    centres = {name: axes.transData.transform(point) for name, point in points.items()}
    # The frontier's line is in the way as much as the points are: boxes along each piece of it.
    corners = sorted((centres[name] for name in frontier), key=lambda centre: centre[0])
    along = [
        start + (end - start) * step / 50
        for start, end in zip(corners, corners[1:], strict=False)
        for step in range(51)
    ]
    taken = [_square(centre, 4.0) for centre in centres.values()]
    taken += [_square(centre, 1.0) for centre in along]
    frame = axes.bbox.extents
    for name, point in points.items():
        label = axes.annotate(
            " ".join(name.split()),
            point,
            xytext=(0, 0),
            textcoords="offset points",
            color=_INK if name in frontier else _SOFT,
            parse_math=False,
        )
        costs = []
        for place in _LABEL_PLACES:
            label.set(position=place[0], ha=place[1], va=place[2])
            box = tuple(label.get_window_extent(renderer).extents)
            costs.append((sum(_overlap(box, other) for other in taken) + _outside(box, frame), box))
        best = min(range(len(costs)), key=lambda index: costs[index][0])
        offset, horizontal, vertical = _LABEL_PLACES[best]
        label.set(position=offset, ha=horizontal, va=vertical)
        taken.append(costs[best][1])


def _square(centre: Sequence[float], radius: float) -> tuple[float, float, float, float]:
    x, y = centre
    return x - radius, y - radius, x + radius, y + radius


def _overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """Area that two boxes (left, bottom, right, top) share."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0.0) * max(height, 0.0)


def _outside(box: Sequence[float], frame: Sequence[float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1]) - _overlap(box, frame)


@contextmanager
def _figure(width: float, height: float) -> Iterator[Any]:
    """A figure of so many inches, in the report's style while the context lasts."""
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PlotsUnavailable(
            'plots need matplotlib: pip install "emorec[plots]", then write the report again'
        ) from error
    with rc_context(_STYLE):
        figure = Figure((width, height), dpi=72, layout="constrained")  # SVG has 72 dots per inch
        FigureCanvasAgg(figure)
        yield figure


def _inline_svg(figure: Any, name: str, description: str) -> str:
    """The figure as an ``<svg>`` element whose ids begin with ``name``."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # Two figures on a page must not share ids.
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"font-family: [^;\"]*;?", "", svg)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", svg)
    for placeholder, colour in _PAGE_COLOURS.items():
        svg = svg.replace(placeholder, colour)
    label = html.escape(description)
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
