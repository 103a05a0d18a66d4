import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from emorec.reports.plots import plane_svg
from tests.reports.rows import CROWD, ROWS

pytest.importorskip("matplotlib")


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
