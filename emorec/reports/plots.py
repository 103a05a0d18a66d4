"""Plots of the report as inline SVG, with colours and fonts of the page around them."""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from emorec.reports.labels import place_labels

__all__ = ["PlotsUnavailable", "plane_svg", "training_svg"]

# Placeholders for the page's colours: matplotlib writes them, `_inline_svg` replaces them.
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
# A plot in a file of its own has the page's colours and font.
_STANDALONE = (
    "<style>svg{--page:#ffffff;--ink:#1c2128;--soft:#667080;--line:#e3e6ea;--accent:#1f6feb;"
    "--second:#c2410c;background:var(--page);"
    'font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",sans-serif}'
    "@media(prefers-color-scheme:dark){svg{--page:#14171c;--ink:#e6e9ee;--soft:#98a2b0;"
    "--line:#2c323b;--accent:#6cabff;--second:#fb9460}}</style>"
)
_PLANE_X = {
    "disliked_share": "disliked share of the held-out items hit",
    "dislike_rate": "disliked share of the lists' {k} places",
    "recall_dislikes": "Recall@{k} of dislikes",
    "ndcl": "nDCL@{k}",
}


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
                axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center")
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


def plane_svg(
    summaries: Mapping[str, Mapping[str, float]],
    k: int,
    *,
    x: str = "disliked_share",
    curves: Mapping[str, Sequence[Mapping[str, float]]] | None = None,
    standalone: bool = False,
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

    Raises:
        PlotsUnavailable: If matplotlib is not installed.
        ValueError: If ``x`` is none of the above.
    """
    if x not in _PLANE_X:
        raise ValueError(f"x must be one of {', '.join(_PLANE_X)}, got {x!r}")

    def place(summary: Mapping[str, float]) -> tuple[float, float]:
        return summary[x], summary["ndcg_likes"]

    models = {name: p for name, row in summaries.items() if _is_finite(p := place(row))}
    lines = {
        name: [p for row in rows if _is_finite(p := place(row))]
        for name, rows in (curves or {}).items()
    }
    everything = [*models.values(), *(p for line in lines.values() for p in line)]
    frontier = {p for p in everything if not any(_beats(other, p) for other in everything)}
    with _figure(8.4, 5.0) as figure:
        axes = figure.add_subplot()
        axes.set_xlabel(_PLANE_X[x].format(k=k) + " (lower is better)")
        axes.set_ylabel(f"NDCG@{k} of likes (higher is better)")
        axes.margins(0.1)
        if not curves:
            axes.plot(*_columns(sorted(frontier)), color=_ACCENT, lw=1, ls=(0, (4, 3)))
        for index, line in enumerate(lines.values()):
            colour = (_ACCENT, _SECOND, _SOFT)[index % 3]
            axes.plot(*_columns(line), color=colour, lw=1.8, marker="o", ms=4, mec=_PAGE, mew=0.8)
        for point in models.values():
            colour = _ACCENT if point in frontier else _SOFT
            axes.plot(*point, "o", ms=8, color=colour, mec=_PAGE, mew=1.2)
        figure.draw_without_rendering()  # places the axes, which the labels are measured against
        # A curve's name stands at its middle.
        labels = {name: line[len(line) // 2] for name, line in lines.items() if line} | models
        strong = {name for name in labels if labels[name] in frontier or name in lines}
        texts = [
            axes.annotate(
                " ".join(name.split()),
                point,
                xytext=(0, 0),
                textcoords="offset points",
                color=_INK if name in strong else _SOFT,
                weight="bold" if name in strong else "normal",
                parse_math=False,
            )
            for name, point in labels.items()
        ]
        joined = [*lines.values()] if curves else [sorted(frontier)]
        place_labels(texts, [*models.values()], joined, leader_colour=_SOFT)
        svg = _inline_svg(figure, "plane", f"NDCG@{k} of likes against {_PLANE_X[x].format(k=k)}")
    return svg.replace(">", f">{_STANDALONE}", 1) if standalone else svg


def _is_finite(point: tuple[float, float]) -> bool:
    return all(map(math.isfinite, point))


def _beats(a: tuple[float, float], b: tuple[float, float]) -> bool:
    """Whether a is nowhere worse than b, and somewhere better."""
    return a[0] <= b[0] and a[1] >= b[1] and a != b


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


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
