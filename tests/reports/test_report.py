import math
import os
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import torch

from emorec.data.feedback import Feedback
from emorec.data.interactions import Interactions
from emorec.evaluation.top_k import TopK, evaluate
from emorec.reports.curves import Curves
from emorec.reports.examples import Example, ListedItem, PastEvent
from emorec.reports.head import Head
from emorec.reports.report import write_report
from tests.reports.rows import ROWS

CURVES = [
    Curves("graph", "ndcg_likes", [4.5, 4.0], [0.02, 0.01], 1, [4.2]),
    Curves("encoders", "ndcg", [6.5, 5.5, 5.0], [0.05, None, 0.07], 3, [5.25, 5.2]),
]
BINS = pd.DataFrame({"predicted": [0.25, 0.75], "observed": [0.3, 0.7], "events": [10, 10]})
FIGURES = {"coverage": 0.5, "popular_share": 0.25, "popularity_rank": 0.125, "gini": 0.75}


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


def contrast(one, other):
    """The contrast ratio of the Web Content Accessibility Guidelines 2.1."""

    def luminance(colour):
        channels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(
            channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4
        )
        return linear @ [0.2126, 0.7152, 0.0722]

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


class TestWriteReport:
    def test_holds_data_results_and_plots(self, tmp_path):
        pytest.importorskip("matplotlib")
        page = Page(write(tmp_path))
        text = " ".join(page.text)
        for expected in ("a run", "6,040", "75.0 %", "ItemKNN", "0.0621", "epoch", "0.0700"):
            assert expected in text
        assert page.tags.count("svg") == 2 + 4  # the plane twice, for two widths
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
        pytest.importorskip("matplotlib")
        evil = '<script>alert("1")</script>&$x$'
        text = write(
            tmp_path,
            title=evil,
            card={evil: evil, "Feedback": {evil: 1}, evil + "2": {"a": 1}},
            results={evil: ROWS["MostPop"], "b": ROWS["ItemKNN"]},
            curves=[Curves(evil, evil, [1.0], [0.5])],
            head=Head({evil: evil}, evil, evil, {evil: evil}),
            calibration={evil: BINS},
            popularity={evil: FIGURES},
            learned={evil: pd.DataFrame({evil: [evil]})},
            examples=[
                Example(
                    evil,
                    1,
                    1,
                    [PastEvent(evil, Feedback.EXPLICIT_POSITIVE)],
                    [ListedItem(evil, 0.5, evil, Feedback.IMPLICIT_NEGATIVE)],
                )
            ],
            examples_note=evil,
            notes=[evil],
        )
        page = Page(text)
        assert "script" not in page.tags
        # Title, heading, fact and its name, two bars, table and note 8; a point and titles of
        # curves in plots 4; head 6; popularity 1; bins 2; learned 3; users 5.
        assert "".join(page.text).count(evil) >= 29

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
            assert "var(--accent)" in svg or "var(--loss)" in svg

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
            ({"curves": [Curves("a", "ndcg", [math.nan], [0.1])]}, "a: validation ndcg"),
        ],
    )
    def test_little_to_show(self, tmp_path, changes, expected):
        pytest.importorskip("matplotlib")
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

    def test_says_how_the_run_was_made(self, tmp_path):
        head = Head({"date": "2026-01-02"}, "emorec-train --seed 7", "gat", {"training.seed": "7"})
        text = write(tmp_path, head=head)
        assert "<dt>date</dt><dd>2026-01-02</dd>" in text
        assert "<pre>emorec-train --seed 7</pre>" in text
        assert '<th scope="row">training.seed</th><td>7</td>' in text
        assert "from the preset gat" in text
        assert "None." in write(tmp_path, head=Head(preset="gat"))
        assert "<h2>Run</h2>" not in write(tmp_path)

    def test_popularity_beside_that_of_the_held_out_events(self, tmp_path):
        undefined = dict.fromkeys(FIGURES, math.nan)
        text = write(tmp_path, popularity={"model": FIGURES, "held-out events": undefined})
        cells = "<td>50.0 %</td><td>25.0 %</td><td>0.125</td><td>0.750</td>"
        assert f'<th scope="row">model</th>{cells}' in text
        assert '<th scope="row">held-out events</th>' + 4 * "<td>-</td>" in text

    def test_calibration_has_a_plot_and_the_figures_of_its_bins(self, tmp_path):
        pytest.importorskip("matplotlib")
        text = write(tmp_path, calibration={"model": BINS})
        assert 'aria-label="Observed share of positive feedback against predicted' in text
        assert '<th scope="row">model</th><td>10</td><td>0.2500</td><td>0.3000</td>' in text
        assert "Calibration" not in write(tmp_path)

    def test_terms_are_explained_once_and_only_if_they_occur(self, tmp_path):
        text = write(tmp_path)
        for term in ("any, likes, dislikes", "nDCL", "refit"):
            assert text.count(f"<dt>{term}</dt>") == 1
        for term in ("PolAUC", "Gini", "half-life", "±"):
            assert f"<dt>{term}</dt>" not in text
        assert "<dt>Gini</dt>" in write(tmp_path, popularity={"model": FIGURES})

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_text_stands_out_from_the_page(self, tmp_path, scheme):
        text = write(tmp_path)
        blocks = re.findall(r":root \{(.*?)\}", text, flags=re.DOTALL)
        colours = dict(re.findall(r"--(\w+): (#\w{6})", blocks[scheme == "dark"]))
        for name in ("ink", "soft", "accent", "second", "loss"):
            assert contrast(colours[name], colours["page"]) >= 4.5, name
        for name in ("ink", "soft"):  # what is written on tiles
            assert contrast(colours[name], colours["tile"]) >= 4.5, name

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
