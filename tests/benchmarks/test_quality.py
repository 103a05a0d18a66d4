"""What the benchmark of quality holds out, what its page says about time, and its short tables."""

from __future__ import annotations

import json
import re

import click
import numpy as np
import pytest
from quality_report import HERE, TABLES, Holdout, Results, short_rows, times_to_quality

from emorec.data.synthetic import generate
from tests.small import small_log


@pytest.mark.parametrize(
    ("text", "name", "meaning"),
    [
        ("10", "leave-10", "the last 10 events of each user"),
        ("1", "leave-1", "the last event of each user"),
        ("time", "time", "the last tenth of the log"),
        ("random", "random", "a random fifth of the log"),
    ],
)
def test_holdout_is_what_its_option_says(text, name, meaning):
    holdout = Holdout.parse(text)
    assert (holdout.option, holdout.name, str(holdout)) == (text, name, meaning)


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "last", ""])
def test_holdout_refuses_other_texts(text):
    with pytest.raises(click.BadParameter, match="expected 'time', 'random' or a number of events"):
        Holdout.parse(text)


def test_holdout_by_time_leaves_the_future_to_the_test_part():
    log = generate(num_users=40, num_items=200).interactions
    split = Holdout.parse("time").split(log)
    assert split.history.time.max() < split.test.time.min()
    assert len(split.test) + split.dropped == pytest.approx(len(log) / 10, rel=0.1)


def test_holdout_of_events_leaves_as_many_of_each_user():
    log = small_log(
        [(user, (user + step) % 9, 0, step) for user in range(4) for step in range(9)], 4, 9
    )
    split = Holdout.parse("2").split(log)
    assert np.bincount(split.test.user).tolist() == [2, 2, 2, 2]


def test_time_to_quality_is_of_the_first_epoch_that_is_as_good():
    results = Results(
        facts={name: {"training_seconds": 100.4} for name in ("weak", "equal", "strong")},
        reached={"weak": 0.05, "equal": 0.2, "strong": 0.21},
        curve=[(10.0, 0.1), (20.0, 0.2), (30.0, 0.15)],
    )
    assert list(times_to_quality(results))[-3:] == [
        "| weak | 0.0500 | 100 | 10 |",
        "| equal | 0.2000 | 100 | 20 |",
        "| strong | 0.2100 | 100 | not reached |",
    ]
    assert list(times_to_quality(Results())) == []


def test_the_documents_have_the_tables_of_the_results():
    """README and docs/results.md hold what `quality.py table` writes, each table once."""
    found = {}
    for page in TABLES:
        text = page.read_text(encoding="utf-8")
        for name, rows in re.findall(r"<!-- quality:(.*?) -->\n(.*?)<!-- end -->", text, re.DOTALL):
            assert name not in found, f"{name} has two tables"
            found[name] = rows.splitlines()
    assert set(found) == {"ml-1m", "amazon-beauty", "ml-100k", "kuairand-pure"}
    for name, rows in found.items():
        data = json.loads((HERE / "results" / f"quality-{name}.json").read_text(encoding="utf-8"))
        means = {
            model: {key: np.mean([run[key] for run in runs]) for key in runs[0]}
            for model, runs in data["models"].items()
        }
        assert rows == list(short_rows(means))
