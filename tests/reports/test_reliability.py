import re
import xml.etree.ElementTree as ElementTree

import pandas as pd
import pytest

from emorec.reports.reliability import reliability_svg

pytest.importorskip("matplotlib")


def test_a_line_per_model_and_the_diagonal():
    table = pd.DataFrame({"predicted": [0.2, 0.8], "observed": [0.0, 1.0], "events": [3, 3]})
    svg = reliability_svg({"emorec": table, "_$x$": table})
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    assert "emorec" in texts
    assert "predicted P(liked), mean of the bin" in texts
    assert "var(--accent)" in svg and "var(--second)" in svg
    assert "stroke-dasharray" in svg  # the diagonal
    ElementTree.fromstring(svg)


def test_one_bin():
    table = pd.DataFrame({"predicted": [0.5], "observed": [0.5], "events": [1]})
    ElementTree.fromstring(reliability_svg({"emorec": table}))
