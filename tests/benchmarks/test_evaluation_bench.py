"""Where the time of an evaluation goes: the parts add up, and the package is left as it was."""

from __future__ import annotations

import json

import evaluation_bench
import numpy as np
import pytest
from click.testing import CliRunner

from emorec import EmoRec
from emorec.data.splits import split_interactions
from emorec.data.synthetic import generate
from tests.small import small_config

FLAGSHIP = small_config("training.epochs=1", "training.refit=0", preset="emorec")
LOG = generate(num_users=60, num_items=50, num_topics=8, events_per_user=12).interactions


def test_a_part_counts_without_the_parts_within_it(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(evaluation_bench.time, "process_time", lambda: clock[0])
    spent = evaluation_bench.Spent()

    def takes(seconds):
        clock[0] += seconds

    inner = spent.timed("inner", takes)

    def outer_work():
        takes(1)
        inner(2)
        with pytest.raises(ZeroDivisionError):
            spent.timed("inner", lambda: (takes(4), 1 / 0))()

    spent.timed("outer", outer_work)()
    assert spent.seconds == {"outer": 1, "inner": 6}


def test_parts_add_up(tmp_path, monkeypatch):
    split = split_interactions(LOG, **FLAGSHIP.split.rule)
    num_users = len(np.unique(split.test.user))
    recommender = EmoRec(config=FLAGSHIP).fit(split)
    recommender.save(tmp_path / "run")
    assert evaluation_bench.products_alone(recommender, num_users) >= 0
    monkeypatch.setattr(evaluation_bench, "products_alone", lambda *_: 1.0)
    replaced = {(owner, name): getattr(owner, name) for owner, name, _ in evaluation_bench.PARTS}
    options = [str(tmp_path / "run"), "--json", str(tmp_path / "figures.json")]
    result = CliRunner().invoke(evaluation_bench.main, options)
    assert result.exit_code == 0, result.output
    assert all(getattr(owner, name) is act for (owner, name), act in replaced.items())

    figures = json.loads((tmp_path / "figures.json").read_text())
    parts = figures["cpu_seconds"]
    names = {part for *_, part in evaluation_bench.PARTS}
    assert set(parts) == names | {"rest of the lists", "rest of the report"}
    assert all(seconds >= 0 for seconds in parts.values())
    assert all(f"| {part} |" in result.output for part in parts)

    of_report = {*evaluation_bench.LATER, "rest of the report"}
    report = sum(seconds for part, seconds in parts.items() if part in of_report)
    lists = sum(parts.values()) - report
    assert figures["report"] == pytest.approx(report, abs=0.005)
    assert figures["lists and metrics"] == pytest.approx(lists, abs=0.005)
    products = 1 + parts[evaluation_bench.LINEAR] + parts[evaluation_bench.ATTENTION]
    assert figures["products"] == pytest.approx(products, abs=0.005)
    assert figures["times products"] == pytest.approx(lists / products, abs=0.01)
    assert figures["users"] == num_users > 50 and set(figures["machine"])
    for fact in ("users", "report", "lists and metrics", "products", "times products"):
        assert f"\n{fact}: {figures[fact]}" in result.output


def test_help():
    assert CliRunner().invoke(evaluation_bench.main, ["--help"]).exit_code == 0
