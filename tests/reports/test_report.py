import math
import os
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from emorec.data.interactions import Interactions
from emorec.evaluation.top_k import TopK, evaluate
from emorec.reports.report import write_report
from tests.reports.rows import ROWS

CURVES = [
    {"epoch": 1, "loss": 6.5, "ndcg_any": 0.05},
    {"epoch": 2, "loss": 5.5, "ndcg_any": None},
    {"epoch": 3, "loss": 5.0, "ndcg_any": 0.07},
]


class Page(HTMLParser):
    """Tags that are open, ids, and text of a page."""

    VOID = {"meta", "br", "img", "link", "input"}

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids, self.attributes, self.text = [], [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *attribute) for attribute in attrs]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def write(tmp_path, **changes):
    path = tmp_path / "report.html"
    options = {
        "title": "a run",
        "card": {"Users": 6040, "Feedback": {"explicit positive": 3, "implicit negative": 1}},
        "results": ROWS,
        "k": 10,
        "curves": CURVES,
    }
    write_report(path, **{**options, **changes})
    return path.read_text(encoding="utf-8")


class TestWriteReport:
    def test_holds_data_results_and_plots(self, tmp_path):
        pytest.importorskip("matplotlib")
        page = Page(write(tmp_path))
        text = " ".join(page.text)
        for expected in ("a run", "6,040", "75.0 %", "ItemKNN", "0.0621", "epoch", "0.0700"):
            assert expected in text
        assert page.tags.count("svg") == 2
        assert page.tags.count("h1") == 1
        assert page.tags.count("tr") == 2 + len(ROWS)
        assert len(page.ids) == len(set(page.ids))

    def test_predictions_have_a_table_of_their_own(self, tmp_path):
        values = {
            "polarity_auc": math.nan, "roc_auc": 0.75, "brier_score": 0.2, "calibration_error": 0.1
        }  # fmt: skip
        page = write(tmp_path, predictions={"a<b": values})
        assert "<h3>Predicted polarity of the held-out events</h3>" in page
        cells = "<td>-</td><td>0.7500</td><td>0.2000</td><td>0.1000</td>"
        assert f'<th scope="row">a&lt;b</th>{cells}' in page
        assert "Predicted polarity" not in write(tmp_path)

    def test_evaluations_have_intervals_and_summaries_have_not(self, tmp_path):
        # Two users, one with a hit of its one like: recall 0 and 1, of which the middle 95 % of
        # draws of two reach from 0 to 1.
        test = Interactions.from_columns([0, 1], [0, 0], [0, 0], [0, 0])
        lists = TopK(torch.tensor([[0], [-1]]), torch.zeros(2, 1))
        found = evaluate(lists, np.arange(2), test, 1)
        text = write(tmp_path, results={"model": found, "other": ROWS["MostPop"]}, k=1)
        assert "0.5000<br><small>±0.5000</small>" in text.replace("</strong>", "").replace(
            "<strong>", ""
        )
        assert "half the width of the 95 % confidence interval" in text
        only_summaries = write(tmp_path)
        assert "<small>±" not in only_summaries
        assert "confidence interval" not in only_summaries

    def test_needs_nothing_from_outside(self, tmp_path):
        text = write(tmp_path)
        page = Page(text)
        assert not {"script", "link", "img", "iframe", "image"} & set(page.tags)
        links = [a for a in page.attributes if a[1] in ("href", "xlink:href", "src")]
        assert all(value.startswith("#") for _, _, value in links)
        assert "@import" not in text
        assert set(re.findall(r"url\((.)", text)) <= {"#"}

    def test_every_reference_inside_has_its_target(self, tmp_path):
        pytest.importorskip("matplotlib")
        text = write(tmp_path)
        wanted = re.findall(r'href="#([^"]+)"', text) + re.findall(r"url\(#([^)]+)\)", text)
        assert wanted
        assert set(wanted) <= set(Page(text).ids)

    def test_text_is_escaped_everywhere(self, tmp_path):
        evil = '<script>alert("1")</script>&$x$'
        text = write(
            tmp_path,
            title=evil,
            card={evil: evil, "Feedback": {evil: 1}, evil + "2": {"a": 1}},
            results={evil: ROWS["MostPop"], "b": ROWS["ItemKNN"]},
            curves=[{"epoch": 1, "loss": 1.0, evil: 0.5}],
            metric=evil,
        )
        page = Page(text)
        assert "script" not in page.tags
        # Title, heading, fact and its name, two bars, table; a point and a curve title in plots.
        assert "".join(page.text).count(evil) >= 7

    def test_the_plane_leaves_out_what_has_no_place_on_it(self, tmp_path):
        pytest.importorskip("matplotlib")
        text = write(tmp_path)
        plane = text[text.index("<h2>Liked and disliked") : text.index("<h2>Training")]
        assert ">MostPop</text>" in plane
        assert "nothing hit" not in plane

    def test_colours_and_fonts_are_the_pages(self, tmp_path):
        pytest.importorskip("matplotlib")
        text = write(tmp_path)
        svgs = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
        for svg in svgs:
            assert "DejaVu" not in svg
            assert set(re.findall(r"(?:stroke|fill): (#\w+)", svg)) == set()
            assert "var(--accent)" in svg

    def test_the_same_results_make_the_same_file(self, tmp_path):
        assert write(tmp_path) == write(tmp_path)

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({"curves": []}, "Nothing here is trained by epochs"),
            ({"results": {}}, "No results"),
            ({"results": {"x": ROWS["nothing hit"]}}, "nothing hit"),
            ({"card": {}}, "<h2>Data</h2>"),
            ({"card": {"Feedback": {"explicit positive": 0}}}, "0.0 %"),
            ({"curves": [{"epoch": 1, "loss": math.nan, "ndcg_any": 0.1}]}, "validation ndcg_any"),
        ],
    )
    def test_little_to_show(self, tmp_path, changes, expected):
        if "x" in changes.get("results", {}):
            expected = ">x</th>"
        text = write(tmp_path, **changes)
        assert expected in text
        Page(text)

    def test_without_matplotlib_the_tables_stay(self, tmp_path, monkeypatch):
        for module in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
            monkeypatch.setitem(sys.modules, module, None)
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        text = write(tmp_path)
        assert "<svg" not in text
        assert "0.0621" in text
        assert "plots need matplotlib: pip install" in text

    def test_an_unknown_metric_is_named(self, tmp_path):
        with pytest.raises(ValueError, match="'ndcg'; they have epoch, loss, ndcg_any"):
            write(tmp_path, metric="ndcg")
        assert list(tmp_path.iterdir()) == []

    def test_a_failed_write_leaves_the_old_file(self, tmp_path, monkeypatch):
        write(tmp_path)
        before = (tmp_path / "report.html").read_bytes()

        def disk_full(descriptor):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", disk_full)
        with pytest.raises(OSError, match="No space left"):
            write(tmp_path, title="another run")
        assert (tmp_path / "report.html").read_bytes() == before
        assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
