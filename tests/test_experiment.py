from __future__ import annotations

import html
import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch

from emorec.baselines import ItemPrior
from emorec.baselines.tuned import names_for
from emorec.comparison import (
    _note_of_repeats,
    compare_runs,
    evaluate_polarity,
    evaluate_scorer,
)
from emorec.config import ConfigError, load_config
from emorec.data.feedback import Feedback
from emorec.data.splits import split_interactions
from emorec.data.synthetic import generate
from emorec.evaluation.predictions import evaluate_predictions
from emorec.experiment import load_data, prepare, train_run, write_results
from emorec.inference.ranking import ModelScorer
from emorec.recommender import EmoRec
from emorec.run_folder import load_items, load_split, read_config
from emorec.settings import DataConfig
from tests.small import small_config, small_log

LOG = generate(num_users=30, num_items=50, num_topics=8, events_per_user=12).interactions


@pytest.fixture
def csv(tmp_path):
    """Six users, eight items, fifteen events of each user."""
    path = tmp_path / "log.csv"
    rng = np.random.default_rng(0)
    lines = [
        f"u{user},i{rng.integers(8)},{rng.integers(1, 6)},{1000 + step}"
        for step in range(15)
        for user in range(6)
    ]
    path.write_text("user_id,item_id,rating,timestamp\n" + "\n".join(lines) + "\n")
    return path


def config_for(path, *settings):
    return small_config(f"data.dataset={path}", "training.epochs=1", *settings)


class TestLoadData:
    def test_a_file_by_the_rules_for_ratings(self, csv):
        log, report = load_data(DataConfig(dataset=str(csv)), None)
        assert (log.num_users, len(log)) == (6, 90)
        assert report is not None
        ratings = [int(line.split(",")[2]) for line in csv.read_text().splitlines()[1:]]
        assert log.feedback_counts()[Feedback.EXPLICIT_POSITIVE] == ratings.count(5)

    def test_columns_and_rules_of_ones_own(self, tmp_path):
        (tmp_path / "rules.toml").write_text('implicit_positive = "plays > 2"\n')
        path = tmp_path / "plays.tsv"
        path.write_text("who\twhat\twhen\tplays\na\tx\t1\t3\na\ty\t2\t1\nb\ty\t3\t9\n")
        options = DataConfig(
            dataset=str(path),
            user_column="who",
            item_column="what",
            time_column="when",
            rules=str(tmp_path / "rules.toml"),
        )
        log, _ = load_data(options, None)
        assert log.users.ids == ["a", "b"]
        assert log.items.ids == ["x", "y"]
        assert log.feedback_counts()[Feedback.IMPLICIT_POSITIVE] == 2

    def test_a_column_of_kinds(self, tmp_path):
        path = tmp_path / "kinds.csv"
        path.write_text(
            "user_id,item_id,timestamp,kind\na,x,1,explicit_negative\nb,y,2,implicit_positive\n"
        )
        log, _ = load_data(DataConfig(dataset=str(path), feedback_column="kind"), None)
        assert log.feedback.tolist() == [3, 1]

    def test_the_registry(self):
        log, _ = load_data(DataConfig(), None)
        assert log.num_users == 600

    def test_k_core(self, csv):
        with csv.open("a") as file:
            file.write("u0,rare,5,5000\nnew,i1,5,5001\n")
        whole, _ = load_data(DataConfig(dataset=str(csv)), None)
        core, _ = load_data(
            DataConfig(dataset=str(csv), min_user_events=2, min_item_events=2), None
        )
        assert (whole.num_users, core.num_users) == (7, 6)
        assert "rare" in whole.items.ids
        assert "rare" not in core.items.ids

    def test_neither_a_file_nor_a_data_set(self):
        with pytest.raises(
            ConfigError,
            match="'ml-1n', which is neither a file here nor a data set; did you mean",
        ):
            load_data(DataConfig(dataset="ml-1n"), None)

    @pytest.mark.parametrize(("column", "name"), [(0, "user"), (1, "item")])
    def test_one_user_or_one_item(self, tmp_path, column, name):
        path = tmp_path / "log.csv"
        rows = []
        for step in range(20):
            row = [f"u{step % 5}", f"i{step % 7}", str(1 + step % 5), str(step)]
            row[column] = "only"
            rows.append(",".join(row))
        path.write_text("user_id,item_id,rating,timestamp\n" + "\n".join(rows))
        with pytest.raises(ValueError, match=f"has 1 {name} only; .*at least two users and two"):
            load_data(DataConfig(dataset=str(path)), None)


class TestPrepare:
    def test_writes_what_a_killed_run_needs(self, csv, tmp_path):
        folder = tmp_path / "runs" / "new"
        config = config_for(csv)
        split, report = prepare(config, folder)
        assert report is not None
        assert read_config(folder) == config
        kept = load_split(folder)
        for part in ("train", "valid", "test"):
            assert np.array_equal(getattr(kept, part).item, getattr(split, part).item)
        versions = json.loads((folder / "versions.json").read_text())
        assert versions["torch"].split("+")[0] == torch.__version__.split("+")[0]
        assert versions["python"].startswith("3.")

    def test_unusable_data_leaves_nothing_behind(self, csv, tmp_path):
        csv.write_text("")
        with pytest.raises(ValueError, match="is empty"):
            prepare(config_for(csv), tmp_path / "run")
        assert not (tmp_path / "run").exists()


class TestRun:
    @pytest.mark.parametrize("n", [3, 8])  # with 8 of 15 held out nothing is left to validate
    def test_the_whole_way(self, csv, tmp_path, n):
        folder = tmp_path / "run"
        config = config_for(csv, f"split.n={n}", "training.epochs=2", "evaluation.k=4")
        split, _ = prepare(config, folder)
        assert (len(split.valid) > 0) is (n == 3)
        seen = []
        recommender = train_run(
            config, split, folder, on_epoch=lambda r: seen.append(len(r)), progress=False
        )
        assert seen == [1, 2]
        (folder / "metrics.jsonl").unlink()  # as if stopped between the checkpoint and this file
        train_run(config, split, folder, progress=False)
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["epoch"] for line in lines] == [1, 2]

        comparison = compare_runs({config.preset: recommender}, 4)
        write_results(folder, recommender, comparison)
        facts = json.loads((folder / "results.json").read_text())
        baselines = set(names_for(8))
        assert set(facts["models"]) == {config.preset} | baselines
        assert set(facts["baselines"]) == baselines
        predictions = comparison.predictions
        for name, evaluation in comparison.results.items():
            found = facts["models"][name]["recall_any"]
            assert found == pytest.approx(evaluation.summary()["recall_any"])
        report = (folder / "report.html").read_text()
        assert json.dumps(facts["predicted_polarity"]) == json.dumps(predictions)
        assert set(facts["popularity"]) == {config.preset, "held-out events"} | baselines
        assert set(comparison.calibration) == set(predictions)
        assert "MostPop" in report
        assert all(html.escape(note) in report for note in comparison.notes)
        how = "chosen from 3 on validation" if n == 3 else "not tuned: there is no validation"
        assert any(
            note.startswith("EASE: regularization") and how in note for note in comparison.notes
        )
        assert "training loss" in report  # with or without a curve of validation
        assert f"<td>{predictions['ItemPrior']['polarity_auc']:.4f}</td>" in report
        assert str(csv.parent) not in report  # the name of the data set, not this machine's path

        again = EmoRec.load(folder)
        users = split.train.users.ids
        assert again.recommend(users).equals(recommender.recommend(users))

    def test_marks_runs_that_are_given_the_time_of_the_held_out_events(self, csv, tmp_path):
        config = config_for(csv).with_settings("sequence.request_time=true", "evaluation.k=4")
        folder = tmp_path / "run"
        split, _ = prepare(config, folder)
        run = train_run(config, split, folder, progress=False)
        other = EmoRec(config=config_for(csv)).fit(split, progress=False)
        comparison = compare_runs({"timed": run, "other": other}, 4)
        assert comparison.request_time == ["timed"]
        assert comparison.notes[0] == (
            "timed: given the time of each user's first held-out event (sequence.request_time); "
            "no other row is"
        )
        write_results(folder, run, comparison)
        assert json.loads((folder / "results.json").read_text())["request_time"] == ["timed"]
        assert html.escape(comparison.notes[0]) in (folder / "report.html").read_text()
        without = compare_runs({"other": other}, 4)
        assert without.request_time == []
        assert not any("request_time" in note for note in without.notes)

    def test_a_second_call_goes_on(self, csv, tmp_path):
        config = config_for(csv)
        split, _ = prepare(config, tmp_path / "run")
        train_run(config, split, tmp_path / "run", progress=False)
        longer = config.with_settings("training.epochs=3")
        seen = []
        train_run(
            longer,
            split,
            tmp_path / "run",
            on_epoch=lambda records: seen.append(records[-1].epoch),
            progress=False,
        )
        assert seen == [2, 3]


class TestJudge:
    # One user: train 0, valid 1, test 2; items 3 and 4 are of the other user.
    SPLIT = split_interactions(
        small_log(
            [(0, 0, 0, 1), (0, 1, 0, 2), (0, 2, 0, 3)]
            + [(1, 3, 0, 1), (1, 2, 0, 2), (1, 4, 0, 3), (1, 0, 0, 4)],
            2,
            5,
        ),
        n=1,
    )

    def test_train_and_valid_are_seen_and_test_is_asked_for(self):
        order = {"0": 9.0, "1": 8.0, "2": 7.0, "3": 6.0, "4": 5.0}
        scores = torch.tensor([[order[str(item)] for item in self.SPLIT.train.items.ids]])
        evaluation = evaluate_scorer(
            lambda users: scores.expand(len(users), -1).clone(), self.SPLIT, k=1
        )
        # Items 0 and 1 are the user's own, so 2 comes first, and it is the held-out one.
        assert evaluation.per_user["recall_any"].tolist() == [1.0, 1.0]

    def test_does_not_depend_on_the_batch(self):
        split = split_interactions(LOG, n=3)
        scorer = EmoRec(config=small_config("training.epochs=1")).fit(split, progress=False)
        one, other = (
            evaluate_scorer(scorer.scorer(), split, 5, batch_size).summary()
            for batch_size in (1, 1000)
        )
        assert one == pytest.approx(other)


class TestJudgePolarity:
    def test_asks_the_model_and_counts_what_came_before_the_test_part(self):
        split = split_interactions(LOG, n=3)
        recommender = EmoRec(config=small_config("training.epochs=1")).fit(split, progress=False)
        found = evaluate_polarity({recommender.config.preset: recommender})
        counted = ItemPrior().fit(split.history)
        scorer = ModelScorer(recommender.model, split.history)
        assert found == {
            recommender.config.preset: evaluate_predictions(scorer.polarity, split.test),
            "ItemPrior": evaluate_predictions(counted, split.test),
        }

    def test_no_predictions_of_a_model_without_a_head_for_items(self):
        config = small_config("training.epochs=1", preset="diff-gat-thp-polarity")
        recommender = EmoRec(config=config).fit(split_interactions(LOG, n=3), progress=False)
        assert evaluate_polarity({"diff": recommender}) == {}


def test_no_score_depends_on_the_test_part(csv, tmp_path):
    config = config_for(csv)
    split, _ = prepare(config, tmp_path / "one")
    rng = np.random.default_rng(0)
    order = rng.permutation(len(split.test))
    other = replace(split, test=replace(split.test, item=split.test.item[order]))
    users = torch.arange(split.train.num_users)
    one = train_run(config, split, tmp_path / "one", progress=False).scorer()(users)
    two = train_run(config, other, tmp_path / "two", progress=False).scorer()(users)
    assert torch.equal(one, two)


def test_presets_survive_a_run_folder(tmp_path):
    config = load_config("diff-gat-thp-polarity")
    (tmp_path / "config.toml").write_text(config.to_toml())
    assert read_config(tmp_path) == config


def test_titles_of_movielens_come_from_its_archive(tmp_path):
    rows = [f"{user}::{10 + user % 3 + step}::5::{step}" for user in range(8) for step in range(6)]
    with zipfile.ZipFile(tmp_path / "ml-1m.zip", "w") as archive:
        archive.writestr("ml-1m/ratings.dat", "\n".join(rows) + "\n")
        archive.writestr("ml-1m/movies.dat", "".join(f"{i}::M {i}::Drama\n" for i in range(10, 19)))
    config = small_config("data.dataset=ml-1m", "data.item_column=other", "split.n=1")
    with pytest.warns(UserWarning, match="data set ml-1m: 2 items are not in the log and are cold"):
        split, _ = prepare(config, tmp_path / "run", tmp_path, progress=False)
    items = load_items(tmp_path / "run", split.train.items)
    assert items.titles.as_dict() == {item: f"M {item}" for item in items.features.items.ids}
    assert items.features.items.ids[: items.features.num_warm] == split.train.items.ids


@pytest.mark.parametrize(
    ("repeats", "fits"),
    [(2, "which fits this log"), (1, "although users seldom return to items here")],
)
def test_a_note_says_whether_lists_of_seen_items_fit_the_log(repeats, fits):
    # Twenty users, whose last item is new to them but for the first of them.
    rows = [(user, (user + step) % 10, 0, step) for user in range(20) for step in range(3)]
    rows = [row if row[0] >= repeats else (row[0], row[0], 0, row[3]) for row in rows]
    split = split_interactions(small_log(rows, 20, 10), n=1)
    assert _note_of_repeats(split, "include") == [
        f"{repeats} of 20 held-out rows are of items that their user has seen; lists may hold such "
        f"items (evaluation.seen is 'include'), {fits}"
    ]
