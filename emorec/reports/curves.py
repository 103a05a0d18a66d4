"""Plots of training: loss and validation by epoch, one part of the model after the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from emorec.reports.figure import ACCENT, INK, LOSS, SOFT, inline_svg, new_figure

__all__ = ["Curves", "curves_svgs"]

_SIZE = 4.6, 2.6  # inches of 72 pixels: legible on a phone, and two fit side by side
_MOST_TICKS = 6
_MOST_MARKERS = 40


@dataclass(frozen=True)
class Curves:
    """What happened in training a part of a model.

    Attributes:
        part: Name of the part.
        metric: Name of the validation metric that chooses the epoch; higher is better.
        losses: Mean training loss of epochs 1, 2, ...
        scores: The validation metric of the same epochs; None where it was not measured.
        refit_from: Epoch that the refit continued from.
        refit_losses: Mean training loss of the epochs of the refit; empty without one.
    """

    part: str
    metric: str
    losses: Sequence[float]
    scores: Sequence[float | None]
    refit_from: int = 0
    refit_losses: Sequence[float] = ()

    def __post_init__(self) -> None:
        if len(self.losses) != len(self.scores):
            raise ValueError(
                f"{self.part!r} has {len(self.losses)} losses and {len(self.scores)} scores of "
                "validation; one of each per epoch is needed"
            )


def curves_svgs(curves: Curves, name: str) -> list[str]:
    """Two plots of a part: the training loss, and the validation metric with the best epoch marked.

    The refit is a dashed line from the epoch that it continued from.

    Args:
        curves: What happened.
        name: What ids in the SVGs begin with.

    Raises:
        PlotsUnavailable: If matplotlib is not installed.
    """
    refit = [(curves.refit_from + 1 + i, loss) for i, loss in enumerate(curves.refit_losses)]
    epochs = range(1, 1 + len(curves.losses))
    losses = _finite(list(zip(epochs, curves.losses, strict=True)))
    scores = _finite(list(zip(epochs, curves.scores, strict=True)))
    last = max([len(curves.losses), *(epoch for epoch, _ in refit)])
    svgs = []
    with new_figure(*_SIZE) as figure:
        axes = _axes(figure, f"{curves.part}: training loss", last)
        _draw(axes, losses, LOSS)
        refit = _finite(refit)
        if refit:
            start = [point for point in losses if point[0] == curves.refit_from]
            axes.plot(
                *_columns(start + refit), color=LOSS, lw=1.8, ls=(0, (3, 2)), marker="s", ms=3.5
            )
            axes.annotate(
                "refit", refit[-1], (0, 7), textcoords="offset points", ha="center", color=INK
            )
        svgs.append(inline_svg(figure, f"{name}-loss", f"{curves.part}: training loss by epoch"))
    with new_figure(*_SIZE) as figure:
        title = f"{curves.part}: validation {curves.metric}"
        axes = _axes(figure, title, last)
        _draw(axes, scores, ACCENT)
        if scores:
            best = max(scores, key=lambda point: point[1])
            axes.plot(*best, "o", ms=9, mfc="none", mec=ACCENT, mew=1.5)
            axes.annotate(f"{best[1]:.4f}", best, (0, 8), textcoords="offset points", ha="center")
        svgs.append(inline_svg(figure, f"{name}-score", f"{title} by epoch"))
    return svgs


def _axes(figure: Any, title: str, last: int) -> Any:
    """Axes whose ticks are whole epochs."""
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=10, color=INK, parse_math=False)
    axes.set_xlabel("epoch")
    axes.set_xlim(0.5, max(1, last) + 0.5)
    axes.set_xticks(range(1, 1 + max(1, last), math.ceil(max(1, last) / _MOST_TICKS)))
    axes.margins(y=0.25)
    return axes


def _draw(axes: Any, points: list[tuple[int, float]], colour: str) -> None:
    if not points:
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color=SOFT)
        return
    marker = "o" if len(points) <= _MOST_MARKERS else ""
    axes.plot(*_columns(points), color=colour, lw=1.8, marker=marker, ms=3.5)


def _finite(points: Sequence[tuple[int, float | None]]) -> list[tuple[int, float]]:
    return [(x, y) for x, y in points if y is not None and math.isfinite(y)]


def _columns(points: list[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [x for x, _ in points], [y for _, y in points]
