from __future__ import annotations

import sys

import numpy as np
import pytest

from emorec.comparison import compare_runs
from emorec.config import load_config
from emorec.data.feedback import Feedback
from emorec.data.splits import split_interactions
from emorec.data.synthetic import generate
from emorec.recommender import EmoRec
from emorec.run_report import (
    changed_settings,
    curves_of,
    data_card,
    name_of_path,
    versions,
    write_run_report,
)
from emorec.training.checkpoint import EpochRecord
from tests.small import small_config

LOG = generate(num_users=30, num_items=50, num_topics=8, events_per_user=12).interactions


def test_data_card():
    split = split_interactions(LOG, n=3)
    card = data_card(split)
    assert card["users"] == split.train.num_users
    assert card["items"] == split.train.num_items
    assert card["interactions"] == len(split.train) + len(split.valid) + len(split.test)
    assert card["parts"] == {
        "train": len(split.train), "valid": len(split.valid), "test": len(split.test)
    }  # fmt: skip
    counts = card["feedback before the test split"]
    assert sum(counts.values()) == len(split.train) + len(split.valid)
    assert set(counts) == {kind.label for kind in Feedback}


class TestCurves:
    def test_parts_and_their_refit(self):
        records = [
            EpochRecord(1, 5.0, 1.0, {"ndcg_likes": 0.2, "ndcg_mean": 0.3}, "graph"),
            EpochRecord(1, 7.0, 1.0, {"ndcg_likes": 0.2, "ndcg_mean": 0.3}),
            EpochRecord(2, 6.0, 1.0, {"ndcg_likes": 0.1, "ndcg_mean": 0.4}),
            EpochRecord(3, 5.0, 1.0, {"ndcg_likes": 0.3, "ndcg_mean": 0.2}),
            EpochRecord(1, 5.5, 1.0, {}, "graph"),
            EpochRecord(1, 6.5, 1.0),
        ]
        graph, encoders = curves_of(load_config("emorec"), records)
        assert (graph.part, graph.metric, graph.scores) == ("graph", "ndcg_likes", [0.2])
        assert (graph.refit_from, graph.refit_losses) == (1, [5.5])
        assert encoders.losses == [7.0, 6.0, 5.0]
        assert (encoders.metric, encoders.scores) == ("ndcg_mean", [0.3, 0.4, 0.2])
        assert (encoders.refit_from, encoders.refit_losses) == (2, [6.5])

    def test_without_validation_nothing_is_a_refit(self):
        (found,) = curves_of(load_config("emorec"), [EpochRecord(1, 7.0, 1.0)])
        assert (found.losses, found.scores, found.refit_losses) == ([7.0], [None], [])


class TestChangedSettings:
    def test_of_a_preset(self):
        assert changed_settings(load_config("emorec")) == {}

    def test_values_as_text_and_files_by_name(self, tmp_path):
        config = load_config(
            "emorec",
            settings=(
                f"data.dataset={tmp_path / 'log.csv'}",
                "training.epochs=3",
                "sequence.projections=false",
            ),
        )
        assert changed_settings(config) == {
            "data.dataset": "log.csv", "sequence.projections": "false", "training.epochs": "3"
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("/a/b/log.csv", "log.csv"),
            ("data.items=/a/items.csv", "data.items=items.csv"),
            ("runs/x", "runs/x"),
            ("data.time_format=%d/%m/%Y", "data.time_format=%d/%m/%Y"),
            ("training.epochs=2", "training.epochs=2"),
        ],
    )
    def test_names_of_paths(self, text, expected):
        assert name_of_path(text) == expected


@pytest.fixture(scope="module")
def run():
    config = small_config("training.epochs=1", "graph.paths=9", preset="emorec")
    run = EmoRec(config=config).fit(split_interactions(LOG, n=3), progress=False)
    return run, compare_runs({"emorec": run}, 10, progress=False)


class TestWriteRunReport:
    def write(self, run, folder, date="2026-01-02 03:04 UTC"):
        write_run_report(folder, *run, "emorec-train --seed 1", date)
        return (folder / "report.html").read_text()

    def test_answers_what_was_run_and_what_people_would_get(self, run, tmp_path):
        text = self.write(run, tmp_path)
        for expected in (
            "<dd>2026-01-02 03:04 UTC</dd>",
            "<pre>emorec-train --seed 1</pre>",
            '<th scope="row">training.epochs</th><td>1</td>',
            f"<dd>{versions()['torch']}</dd>",
            f"<dd>{sys.version.split()[0]}</dd>",
            "<dd>without DGL</dd>",
            "<h3>heads of the attention</h3>",
            "<h2>Calibration of the predicted P(liked)</h2>",
            '<th scope="row">held-out events</th>',
        ):
            assert expected in text, expected
        assert text.count('<article class="user">') == 5
        assert "raised by " in text

    def test_the_same_run_and_date_make_the_same_page(self, run, tmp_path):
        one = self.write(run, tmp_path)
        assert one == self.write(run, tmp_path)
        assert one != self.write(run, tmp_path, "2027-01-02 03:04 UTC")

    def test_lists_are_those_of_the_model(self, run, tmp_path):
        recommender, comparison = run
        users = recommender.split.train.users
        lists = recommender.recommend(users.ids, k=10, before_test=True)
        found = comparison.lists["emorec"].items.numpy()
        for row, user in enumerate(np.unique(recommender.split.test.user)[:3]):
            own = lists[lists["user"] == users.ids[user]]["item"].tolist()
            assert own == [recommender.split.train.items.ids[item] for item in found[row]]
