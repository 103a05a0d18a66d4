import itertools
import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from emorec.evaluation import labels
from emorec.evaluation.plots import plane_svg
from tests.evaluation.rows import ROWS

pytest.importorskip("matplotlib")

# As crowded as a table of many models is: (NDCG of likes, disliked share).
CROWD = {
    "Random": (0.001, 0.28),
    "MostPop": (0.036, 0.217),
    "matrix factorisation": (0.041, 0.355),
    "ItemKNN": (0.0514, 0.262),
    "iALS": (0.056, 0.3),
    "EASE": (0.0609, 0.285),
    "EASE, likes": (0.0672, 0.188),
    "EASE, recency 20": (0.09, 0.373),
    "EASE, recency 5": (0.0964, 0.394),
    "SASRec": (0.1166, 0.424),
    "BERT4Rec": (0.11, 0.418),
    "gSASRec": (0.114, 0.419),
    "LightGCN": (0.0559, 0.291),
    "signed graph": (0.06, 0.25),
    "signed transformer": (0.0615, 0.247),
    "negative-aware": (0.052, 0.27),
    "contrastive": (0.112, 0.4),
    "ItemKNN, recency": (0.0934, 0.38),
    "ItemKNN, likes": (0.061, 0.2),
    "emorec": (0.14, 0.3),
}


def summaries(points):
    return {name: {"ndcg_likes": y, "disliked_share": x} for name, (y, x) in points.items()}


def texts(svg):
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


class TestPlane:
    def test_every_model_is_named(self):
        svg = plane_svg(summaries(CROWD), 10)
        assert set(CROWD) <= set(texts(svg))
        ElementTree.fromstring(svg)

    def test_what_has_no_value_is_not_drawn(self):
        found = texts(plane_svg(ROWS, 10))
        assert "MostPop" in found
        assert "nothing hit" not in found

    def test_the_frontier_is_bold(self):
        svg = plane_svg(summaries(CROWD), 10)
        bold = set(re.findall(r"<text[^>]*font-weight: 700[^>]*>([^<]*)</text>", svg))
        assert bold == {"EASE, likes", "emorec"}

    def test_another_axis(self):
        svg = plane_svg(ROWS, 5, x="recall_dislikes")
        assert "Recall@5 of dislikes (lower is better)" in texts(svg)
        with pytest.raises(ValueError, match="x must be one of disliked_share, .* got 'mrr'"):
            plane_svg(ROWS, 5, x="mrr")

    def test_curves(self):
        points = [(0.10, 0.21), (0.12, 0.24), (math.nan, 0.3), (0.15, 0.33)]
        curve = [{"ndcg_likes": y, "disliked_share": x} for y, x in points]
        plain = plane_svg(summaries(CROWD), 10)
        svg = plane_svg(summaries(CROWD), 10, curves={"by weight": curve, "emorec": curve[:2]})
        found = texts(svg)
        assert found.count("by weight") == 1
        assert found.count("emorec") == 1  # the point has the curve's name
        assert "var(--second)" in svg  # the second curve's colour
        assert "stroke-dasharray" in plain and "stroke-dasharray" not in svg

    def test_a_file_of_its_own_brings_its_colours(self):
        inside, alone = (plane_svg(ROWS, 10, standalone=own) for own in (False, True))
        used = set(re.findall(r"var\((--\w+)\)", alone))
        assert "--accent" in used
        for colour in used:
            assert f"{colour}:#" in alone
            assert f"{colour}:#" not in inside
        assert "prefers-color-scheme:dark" in alone
        ElementTree.fromstring(alone)

    @pytest.mark.parametrize("curves", [None, {"a": []}])
    def test_nothing_to_show(self, curves):
        ElementTree.fromstring(plane_svg({}, 10, curves=curves))


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
    labels.place_labels(placed, points, [], "grey")
    boxes = [text.get_window_extent(renderer) for text in placed]
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)
    for box, text in itertools.product(boxes, placed):
        x, y = axes.transData.transform(text.xy)
        assert not box.contains(x, y)
    for box in boxes:
        assert axes.bbox.contains(box.x0, box.y0) and axes.bbox.contains(box.x1, box.y1)


def test_no_labels():
    labels.place_labels([], [], [], "grey")
