"""Trials of settings."""

from __future__ import annotations

import builtins
import json
import math
import shutil

import numpy as np
import pandas as pd
import pytest

from emorec import cli
from emorec.cli import tuning
from emorec.config import ConfigError, load_config
from emorec.data.splits import Split, split_interactions
from emorec.data.synthetic import generate
from emorec.recommender import EmoRec
from emorec.study import DEFAULT_SPACE, Goal, Space, Study
from tests.cli.commands import TINY, assert_fails, call, log_lines, write_log
from tests.small import small_config

pytest.importorskip("optuna", reason="needs Optuna, the extra tune")

LOG = generate(num_users=40, num_items=60, num_topics=8, events_per_user=14).interactions
CONFIG = small_config("training.epochs=1", "training.refit=0.5")
SPLIT = split_interactions(LOG, **CONFIG.split.rule)
SPACE = """\
[sequence]
dropout = {low = 0.0, high = 0.5}
[loss]
horizon = [1, 2]
[training]
learning_rate = {low = 1e-3, high = 1e-1, log = true}
batch_size = {low = 8, high = 16}
"""


def study(folder, space=SPACE, goal=None, config=CONFIG):
    return Study(folder, config, space, goal, source="space.toml")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    found = study(tmp_path_factory.mktemp("study"))
    found.run(SPLIT, 4, progress=False)
    return found


def test_trials_have_figures_and_settings(done):
    rows = done.trials()
    assert rows["state"].tolist() == ["finished"] * 4
    assert rows["training.batch_size"].between(8, 16).all()
    assert rows["loss.horizon"].isin([1, 2]).all()
    assert rows["sequence.dropout"].nunique() == 4
    assert (rows["epochs"] == 1).all()
    pd.testing.assert_frame_equal(
        pd.read_csv(done.folder / "trials.csv"), rows, check_dtype=False, check_exact=False
    )


def test_the_best_trial_has_most_likes_and_trains_again(done):
    rows = done.trials()
    best = rows.loc[rows["ndcg_likes"].idxmax()]
    assert rows["is_best"].sum() == 1 and best["is_best"]
    config = load_config(file=done.folder / "best.toml")
    assert config == done.best()
    assert config.sequence.dropout == best["sequence.dropout"]
    assert config.training.refit == 0.5  # which trials go without
    records = EmoRec(config=config).fit(SPLIT, progress=False).records
    assert math.isclose(records[0].loss, records[0].loss) and len(records) == 2


def test_a_study_goes_on_as_if_it_had_not_been_stopped(done, tmp_path):
    for number in (1, 3, 4):
        study(tmp_path).run(SPLIT, number, progress=False)
    again, rows = study(tmp_path).trials(), done.trials()
    pd.testing.assert_frame_equal(again.drop(columns="seconds"), rows.drop(columns="seconds"))


def test_half_a_line_of_a_killed_process_does_not_end_a_study(done, tmp_path):
    shutil.copytree(done.folder, tmp_path / "study")
    journal = tmp_path / "study" / "study.jsonl"
    whole = journal.read_bytes()
    with journal.open("ab") as file:
        file.write(b'{"op_code":4,"work')
    found = study(tmp_path / "study")
    assert journal.read_bytes().startswith(whole)
    assert all(map(json.loads, journal.read_text().splitlines()))
    found.run(SPLIT, 5, progress=False)
    assert study(tmp_path / "study").trials()["state"].tolist() == ["finished"] * 5


def test_tables_that_could_not_be_written_are_written_by_the_next_call(tmp_path, monkeypatch):
    def full(*_):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(Study, "_write", full)
        study(tmp_path).run(SPLIT, 1, progress=False)
    study(tmp_path).run(SPLIT, 1, progress=False)
    assert len(pd.read_csv(tmp_path / "trials.csv")) == 1
    assert (tmp_path / "best.toml").exists()


def test_a_trial_that_was_interrupted_does_not_count(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(EmoRec, "fit", _raise(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            study(tmp_path).run(SPLIT, 2, progress=False)
    again = study(tmp_path)
    assert len(again.trials()) == 0
    again.run(SPLIT, 1, progress=False)
    assert again.trials()["state"].tolist() == ["finished"]


def test_a_trial_that_fails_counts_and_says_why(tmp_path, monkeypatch):
    space = "[loss]\nnegatives = [0, 7]\nranking = ['bpr', 'softmax']\n"
    found = study(tmp_path, space)
    found.run(SPLIT, 8, progress=False)
    rows = found.trials()
    wrong = (rows["loss.negatives"] == 7) & (rows["loss.ranking"] == "bpr")
    assert wrong.any()
    assert rows[wrong]["state"].eq("failed").all()
    assert rows[wrong]["note"].str.contains("needs loss.ranking 'softmax'").all()
    assert rows[~wrong]["state"].ne("failed").all()


def test_a_trial_behind_the_median_is_stopped_early(tmp_path):
    config = CONFIG.updated({"training": {"epochs": 6, "patience": 6}}, "")
    space = "[training]\nlearning_rate = [1e-9, 1e-8, 3e-2, 3.1e-2, 3.2e-2]\n"
    found = study(tmp_path, space, config=config)
    found.run(SPLIT, 12, progress=False)
    rows = found.trials()
    early = rows[rows["state"] == "stopped early"]
    assert len(early) and early["epochs"].between(3, 5).all()
    assert not early["is_best"].any()


def test_the_disliked_share_can_be_bounded(done, tmp_path):
    limit = done.trials()["disliked_share"].min()
    found = study(tmp_path, goal=Goal(most_disliked=float(limit)))
    found.run(SPLIT, 4, progress=False)  # the same: these are drawn at random
    rows = found.trials()
    allowed = rows[rows["disliked_share"] <= limit]
    assert 0 < len(allowed) < 4
    assert rows["is_best"].idxmax() == allowed["ndcg_likes"].idxmax()
    none = study(tmp_path / "none", goal=Goal(most_disliked=0.0))
    none.run(SPLIT, 1, progress=False)
    assert none.best() is None and not (tmp_path / "none" / "best.toml").exists()


def test_the_front_is_what_no_other_trial_beats(tmp_path):
    found = study(tmp_path, goal=Goal("front"))
    found.run(SPLIT, 4, progress=False)
    rows = found.trials()
    for row in rows.itertuples():
        better = rows[
            (rows.ndcg_likes >= row.ndcg_likes)
            & (rows.disliked_share <= row.disliked_share)
            & ((rows.ndcg_likes > row.ndcg_likes) | (rows.disliked_share < row.disliked_share))
        ]
        assert row.is_best == (len(better) == 0)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ("", "space.toml: names no setting to search"),
        ("[loss", "space.toml: is not valid TOML"),
        ("loss = 3", "space.toml: loss must be a section of settings"),
        ("[loss]\nhorizn = [1]", "did you mean 'horizon'"),
        ("[loss]\nhorizon = [1, 2000]", "loss.horizon must be at most 1,000, got 2000"),
        ("[loss]\nhorizon = 3", "loss.horizon: must be a list of values or a range"),
        ("[loss]\nhorizon = []", "must be a list of values or a range"),
        ("[loss]\nhorizon = {low = 3, high = 1}", "must be a list of values or a range"),
        ("[sequence]\ndropout = {low = 0, high = 0.5, log = true}", "low is 0, must be above 0"),
        ("[sequence]\ndropout = {low = 0.1, high = 1.5}", "sequence.dropout must be below 1"),
    ],
)
def test_a_wrong_space_is_refused(tmp_path, space, message):
    with pytest.raises(ConfigError, match=message):
        study(tmp_path, space)
    assert not (tmp_path / "study.jsonl").exists()


def test_the_default_space_suits_the_flagship():
    base = load_config("emorec")
    assert "sequence.dropout" in Space.parse(DEFAULT_SPACE, "the space", base).choices


def test_another_study_in_the_folder_is_refused(done, tmp_path):
    folder = shutil.copytree(done.folder, tmp_path / "study")
    other = CONFIG.updated({"training": {"seed": 3}}, "")
    with pytest.raises(ConfigError, match="the study there has other settings"):
        study(folder, config=other)
    with pytest.raises(ConfigError, match="has another space"):
        study(folder, "[loss]\nhorizon = [1, 2]\n")
    with pytest.raises(ConfigError, match="has another goal"):
        study(folder, goal=Goal("front"))


def test_without_optuna_the_error_says_what_to_install(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith("optuna"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r'needs Optuna: pip install "emorec\[tune\]"'):
        study(tmp_path)


def test_a_study_needs_validation_events(tmp_path):
    none = SPLIT.valid.select(np.zeros(len(SPLIT.valid), dtype=bool))
    split = Split(SPLIT.train, none, SPLIT.test)
    with pytest.raises(ValueError, match="needs validation events, and the split has none"):
        study(tmp_path).run(split, 1, progress=False)


class TestCommand:
    def test_runs_and_says_how_to_train_the_best(self, tmp_path):
        data = write_log(tmp_path / "log.csv", log_lines())
        (tmp_path / "space.toml").write_text(SPACE)
        options = ("--study", tmp_path / "study", "--dataset", data, "--space")
        options += (tmp_path / "space.toml", "--preset", "emo-sage-thp", "--trials", 2)
        options += ("--set", "split.n=2", "--set", "training.epochs=1", "--set", "loss.ranking=bpr")
        result = call(cli.main, "tune", *options)
        assert result.exit_code == 0, result.output
        plot = tmp_path / "study" / "trials.svg"
        assert "2 trials: 2 finished. Table and plot: " in result.stdout
        assert f", {plot}\n" in result.stdout and plot.is_file()
        assert f"--dataset {data} --config {tmp_path / 'study' / 'best.toml'}" in result.stdout
        again = call(cli.main, "tune", *options)
        assert "2 of 2 trials are there already" in again.stdout
        best = ("--config", tmp_path / "study" / "best.toml", "--run-dir", tmp_path / "run")
        assert call(cli.train, "--dataset", data, *best, "--epochs", 1).exit_code == 0

    def test_the_default_space_can_be_shown(self, tmp_path):
        result = call(cli.main, "tune", "--study", tmp_path / "x", "--show-space")
        assert result.stdout == DEFAULT_SPACE and not (tmp_path / "x").exists()

    def test_a_log_that_is_not_there_leaves_no_study(self, tmp_path):
        options = ("--study", tmp_path / "study", "--dataset", tmp_path / "nothing.csv")
        assert_fails(cli.main, "tune", *options, message="neither a file here nor a data set")
        assert not (tmp_path / "study").exists()

    def test_a_wrong_space(self, tmp_path):
        (tmp_path / "space.toml").write_text("[loss]\nhorizon = 3\n")
        options = ("--study", tmp_path / "study", "--space", tmp_path / "space.toml", *TINY[:2])
        assert_fails(cli.main, "tune", *options[:4], message="must be a list of values or a range")

    def test_a_preset_that_the_file_contradicts(self, tmp_path):
        (tmp_path / "my.toml").write_text('preset = "diff-gat"\n')
        options = ("--study", tmp_path / "study", "--config", tmp_path / "my.toml")
        message = "--preset emorec contradicts .*my.toml, which has preset diff-gat"
        assert_fails(cli.main, "tune", *options, "--preset", "emorec", message=message, code=(2,))

    @pytest.fixture
    def search(self, tmp_path, monkeypatch):
        """Runs the command with what takes the place of a trial's training."""

        def run(trained, space, *options):
            monkeypatch.setattr(EmoRec, "fit", trained)
            (tmp_path / "space.toml").write_text(space)
            data = write_log(tmp_path / "log.csv", log_lines())
            options += ("--study", tmp_path / "study", "--dataset", data, "--set", "split.n=2")
            return call(cli.main, "tune", "--space", tmp_path / "space.toml", *options)

        return run

    def test_an_interrupt_says_how_to_go_on(self, search, tmp_path):
        result = search(_raise(KeyboardInterrupt), "[loss]\nhorizon = [1, 2]\n")
        assert result.exit_code == 130
        kept = f"Stopped. 0 trials are kept in {tmp_path / 'study'}; the same command goes on."
        assert kept in result.stderr

    def test_no_trial_finishes(self, search, tmp_path):
        space = "[loss]\nnegatives = [7]\nranking = ['bpr']\n"
        result = search(_raise(AssertionError), space, "--trials", 1)
        assert result.exit_code == 0, result.output
        assert "trial   0  failed: " in result.stdout and "loss.ranking 'softmax'" in result.stdout
        table = tmp_path / "study" / "trials.csv"
        assert result.stdout.endswith(
            f"1 trials: 1 failed. Table: {table}\nNo best trial: no trial finished.\n"
        )
        assert table.is_file() and not table.with_suffix(".svg").exists()

    def test_no_trial_is_within_the_bound(self, tmp_path, capsys):
        bounded = study(tmp_path, goal=Goal(most_disliked=0.25))
        rows = [{"trial": 1, "state": "finished", "is_best": False}]
        bounded.trials = lambda: pd.DataFrame(rows)
        tuning._show(bounded, CONFIG)
        message = "No best trial: no finished trial has a disliked share of at most 0.25.\n"
        assert capsys.readouterr().out.endswith(message)


def _raise(error):
    def fails(*_, **__):
        raise error

    return fails
