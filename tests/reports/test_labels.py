import itertools

import pytest

from emorec.reports.labels import place_labels
from tests.reports.rows import CROWD

pytest.importorskip("matplotlib")


def test_labels_overlap_neither_each_other_nor_markers():
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((8.4, 5.0), dpi=72)
    renderer = FigureCanvasAgg(figure).get_renderer()
    axes = figure.add_subplot()
    points = [(x, y) for y, x in CROWD.values()]
    axes.plot(*zip(*points, strict=True), "o", ms=8)
    axes.margins(0.1)
    figure.draw_without_rendering()
    placed = [
        axes.annotate(name, (x, y), xytext=(0, 0), textcoords="offset points")
        for name, (y, x) in CROWD.items()
    ]
    place_labels(placed, points, [], "grey")
    boxes = [text.get_window_extent(renderer) for text in placed]
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)
    for box, text in itertools.product(boxes, placed):
        x, y = axes.transData.transform(text.xy)
        assert not box.contains(x, y)
    for box in boxes:
        assert axes.bbox.contains(box.x0, box.y0) and axes.bbox.contains(box.x1, box.y1)


def test_no_labels():
    place_labels([], [], [], "grey")
