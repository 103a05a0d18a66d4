"""The page as a browser lays it out, on a phone and on a desk."""

from __future__ import annotations

import pandas as pd
import pytest

from emorec.data.feedback import Feedback
from emorec.reports.curves import Curves
from emorec.reports.examples import Example, ListedItem, PastEvent
from emorec.reports.head import Head
from emorec.reports.report import write_report
from tests.reports.browser import chromium, measured
from tests.reports.rows import CROWD, summary

pytestmark = pytest.mark.skipif(chromium() is None, reason="there is no chromium to lay out pages")

LONG = "a-title-without-a-space-" * 6
POPULARITY = {"coverage": 0.5, "popular_share": 0.25, "popularity_rank": 0.1, "gini": 0.7}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    pytest.importorskip("matplotlib")
    path = tmp_path_factory.mktemp("report") / "report.html"
    rows = {
        name: summary(0.1, 0.1, 0.1, 0.1, likes, 0.1, 0.1, share, 0.1)
        for name, (likes, share) in CROWD.items()
    }
    bins = pd.DataFrame({"predicted": [0.2, 0.8], "observed": [0.3, 0.7], "events": [99, 99]})
    write_report(
        path,
        title=f"EmoRec: {LONG}",
        head=Head({"date": "2026-01-02"}, f"emorec-train {LONG}", "x", {"data.dataset": LONG}),
        card={"users": 6040, "parts": {"train": 10, "test": 5}},
        results=rows,
        k=10,
        calibration={"emorec": bins, "ItemPrior": bins},
        popularity=dict.fromkeys(rows, POPULARITY),
        learned={"heads": pd.DataFrame([[1, 1, 0.04, 15.7]], columns=["layer", "b", "c", "d"])},
        curves=[Curves("encoders", "ndcg", [2.0, 1.0], [0.1, 0.2], 2, [1.5])],
        examples=[
            Example(
                LONG,
                1,
                1,
                [PastEvent(LONG, Feedback.EXPLICIT_NEGATIVE)],
                [ListedItem(LONG, 0.5, LONG, Feedback.EXPLICIT_POSITIVE)],
            )
        ],
    )
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_overflows(page, width, tmp_path):
    found = measured(page, width, tmp_path)
    assert found["width"] == width
    assert found["page"] == width
    assert found["beyond"] == []
    plots = found["plots"]
    assert len(plots) == 4  # the plane once, calibration, loss and validation
    for name, left, right in plots:
        assert 0 <= left < right <= width, name
        assert right - left >= min(0.75 * width, 300), name  # legible


def test_the_models_column_stays_in_view(page, tmp_path):
    cells = measured(page, 390, tmp_path)["cells"]
    assert cells
    for left, cell, scrolled in cells:
        assert scrolled > 0
        assert cell == pytest.approx(left, abs=1)
