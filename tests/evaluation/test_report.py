import math
import os
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from emorec.data.interactions import Interactions
from emorec.evaluation.ranking import TopK, evaluate
from emorec.evaluation.report import results_table, to_markdown, write_report

KEYS = [
    "recall_any",
    "ndcg_any",
    "map_any",
    "recall_likes",
    "ndcg_likes",
    "recall_dislikes",
    "disliked_share",
]


def summary(*values):
    return dict(zip(KEYS, values, strict=True))


ROWS = {
    "MostPop": summary(0.0410, 0.0444, 0.0172, 0.0505, 0.0361, 0.0271, 0.217),
    "ItemKNN": summary(0.0621, 0.0669, 0.0266, 0.0763, 0.0514, 0.0426, 0.262),
    "nothing hit": summary(0, 0, 0, 0, 0, 0.05, math.nan),
}
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


class TestTables:
    def test_text(self):
        assert results_table(ROWS, 10).splitlines() == [
            "@10          --------- any ----------   ---- likes ----   -- dislikes --",
            "model        Recall     NDCG      MAP   Recall     NDCG   Recall   share",
            "MostPop      0.0410   0.0444   0.0172   0.0505   0.0361   0.0271*  0.217*",
            "ItemKNN      0.0621*  0.0669*  0.0266*  0.0763*  0.0514*  0.0426   0.262",
            "nothing hit  0.0000   0.0000   0.0000   0.0000   0.0000   0.0500       -",
        ]

    def test_markdown(self):
        lines = to_markdown(ROWS, 10).splitlines()
        assert lines[0] == (
            "| model | Recall@10 any | NDCG@10 any | MAP@10 any | Recall@10 likes | NDCG@10 likes "
            "| Recall@10 dislikes | disliked share |"
        )
        assert lines[1] == "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
        assert lines[3] == (
            "| ItemKNN | **0.0621** | **0.0669** | **0.0266** | **0.0763** | **0.0514** | 0.0426 "
            "| 0.262 |"
        )
        assert lines[4].endswith("| 0.0500 | - |")

    def test_names_cannot_break_the_table(self):
        name = "a|b *c* <d>\n&"
        line = to_markdown({name: ROWS["MostPop"]}, 10).splitlines()[-1]
        assert line.startswith(r"| a\|b \*c\* &lt;d&gt; &amp; | 0.0410 |")
        assert results_table({name: ROWS["MostPop"]}, 10).splitlines()[-1].startswith("a|b *c* <d>")

    def test_values_that_print_alike_are_equally_good(self):
        rows = {"a": dict(ROWS["MostPop"]), "b": dict(ROWS["MostPop"], recall_any=0.04101)}
        for line in results_table(rows, 10).splitlines()[2:]:
            assert line.split()[1] == "0.0410*"

    def test_a_single_row_is_not_best_of_anything(self):
        assert "*" not in results_table({"alone": ROWS["MostPop"]}, 10)

    def test_no_rows(self):
        assert len(results_table({}, 10).splitlines()) == 2
        assert len(to_markdown({}, 10).splitlines()) == 2

    def test_takes_an_evaluation(self):
        # One user, one held-out like, at rank 1 of 2: recall 1, NDCG 1 / (1 + 1/log2 3) = 0.6131.
        test = Interactions.from_columns([5], [7], [0], [0])
        found = evaluate(TopK(torch.tensor([[0, -1]]), torch.zeros(1, 2)), np.array([0]), test, 2)
        *_, line, users = results_table({"model": found}, 2).splitlines()
        assert line.split() == "model 1.0000 0.6131 1.0000 1.0000 0.6131 - 0.000".split()
        assert users == (
            "1 users; left out of means for want of such items: any 0, likes 0, dislikes 1"
        )
        with pytest.raises(ValueError, match="'model' was evaluated at k = 2, .* k = 10"):
            results_table({"model": found}, 10)

    @pytest.mark.parametrize("table", [results_table, to_markdown])
    def test_a_missing_column_is_named(self, table):
        with pytest.raises(ValueError, match="the summary of 'x' lacks 'map_any'"):
            table({"x": {"recall_any": 0.1, "ndcg_any": 0.1}}, 10)


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
