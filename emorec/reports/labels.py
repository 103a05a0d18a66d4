"""Places the labels of points in a plot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

__all__ = ["place_labels"]

_Box = tuple[float, float, float, float]  # left, bottom, right, top
_Point = tuple[float, float]

# Where a label may stand beside its point, best place first: direction, alignment.
_DIRECTIONS = (
    ((1, 0), "left", "center"),
    ((-1, 0), "right", "center"),
    ((0, 1), "center", "bottom"),
    ((0, -1), "center", "top"),
    ((0.8, 0.8), "left", "bottom"),
    ((0.8, -0.8), "left", "top"),
    ((-0.8, 0.8), "right", "bottom"),
    ((-0.8, -0.8), "right", "top"),
)
_DISTANCES = (7, 16, 27, 40)  # in points; from the second on a line leads to the point
_ROUNDS = 4


class _Place(NamedTuple):
    """A place for a label, and what it costs there, other labels apart."""

    cost: float
    box: _Box
    offset: _Point
    horizontal: str
    vertical: str


def place_labels(
    texts: Sequence[Any],
    points: Sequence[_Point],
    lines: Sequence[Sequence[_Point]],
    leader_colour: str,
) -> None:
    """Moves each label to where it covers least of points, lines, other labels and the margin.

    Each in turn takes its cheapest place given those of the others; after a few rounds hardly any
    wants to move. Labels further away get a line to their point.

    Args:
        texts: Annotations of the same axes, offset from their points in points. The axes must
            have their final limits and size.
        points: Where markers are, in the units of the data.
        lines: Corners of the lines that are drawn, in the units of the data.
        leader_colour: Colour of the lines from labels to points.
    """
    if not texts:
        return
    axes = texts[0].axes
    renderer, to_pixels = axes.figure.canvas.get_renderer(), axes.transData.transform
    on_lines = []
    for line in lines:
        corners = to_pixels(line) if line else []
        on_lines += [
            _square(start + (end - start) * step / 50, 2.0)
            for start, end in zip(corners, corners[1:], strict=False)
            for step in range(51)
        ]
    options = []
    for text in texts:
        # A wide berth for other points, lest the label seem to be theirs.
        others = [_square(to_pixels(point), 9.0) for point in points if point != text.xy]
        options.append(_places(text, renderer, on_lines + others, axes.bbox.extents))
    chosen = [min(places) for places in options]
    for _ in range(_ROUNDS):
        for index, places in enumerate(options):
            boxes = [place.box for other, place in enumerate(chosen) if other != index]
            chosen[index] = min(
                (place.cost + 5 * sum(_overlap(place.box, box) for box in boxes), place)
                for place in places
            )[1]
    for text, place in zip(texts, chosen, strict=True):
        text.set(position=place.offset, ha=place.horizontal, va=place.vertical)
        if max(map(abs, place.offset)) > _DISTANCES[0]:
            leader = {
                "arrowstyle": "-",
                "color": leader_colour,
                "lw": 0.6,
                "shrinkA": 0,
                "shrinkB": 5,
            }
            axes.annotate(
                "", text.xy, xytext=place.offset, textcoords="offset points", arrowprops=leader
            )


def _places(text: Any, renderer: Any, taken: Sequence[_Box], frame: _Box) -> list[_Place]:
    """Every place that a label may take."""
    found = []
    for distance in _DISTANCES:
        for order, ((right, up), horizontal, vertical) in enumerate(_DIRECTIONS):
            offset = right * distance, up * distance
            text.set(position=offset, ha=horizontal, va=vertical)
            left, bottom, end, top = map(float, text.get_window_extent(renderer).extents)
            box = left - 1, bottom, end + 1, top
            covered = sum(_overlap(box, other) for other in taken) + 5 * _outside(box, frame)
            # As an area: standing further off is as bad as covering a few square points.
            reluctance = 4 * (distance - _DISTANCES[0]) + order
            found.append(_Place(2 * covered + reluctance, box, offset, horizontal, vertical))
    return found


def _square(centre: Sequence[float], radius: float) -> _Box:
    x, y = map(float, centre)
    return x - radius, y - radius, x + radius, y + radius


def _overlap(a: _Box, b: _Box) -> float:
    """Area that two boxes share."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0.0) * max(height, 0.0)


def _outside(box: _Box, frame: _Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1]) - _overlap(box, frame)
