"""Learning on from new events."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from emorec import EmoRec, cli
from emorec.data.synthetic import generate
from emorec.training.validation import Validation
from emorec.updating import BEFORE, judge_update
from tests.cli.commands import TINY, assert_fails, call, log_lines, write_log
from tests.cli.test_resume import assert_same_run, records
from tests.small import interrupt_training, small_config

LOG = generate(num_users=40, num_items=70, num_topics=8, events_per_user=20).interactions
ORDER = np.argsort(LOG.time, kind="stable")
KNOWN = LOG.select(ORDER[:500]).reindexed()
NEW = LOG.select(ORDER[500:]).reindexed()
CONFIG = small_config("training.epochs=2", "training.refit=0.5", "loss.horizon=0")


@pytest.fixture(scope="module")
def before():
    return EmoRec(config=CONFIG).fit(KNOWN, progress=False)


@pytest.fixture(scope="module")
def updated(before):
    return before.update(NEW, progress=False)


def test_the_new_recommender_knows_everybody(before, updated):
    ids = set(LOG.users.ids)
    assert set(updated.split.train.users.ids) <= ids
    assert len(updated.split.log) + updated.split.dropped == len(before.split.log) + len(NEW)
    lists = updated.recommend(NEW.users.ids[:3], k=5)
    assert (lists["source"] == "model").all()


def test_the_old_recommender_stays_as_it_is(before):
    parameters = {name: value.clone() for name, value in before.model.state_dict().items()}
    lists = before.recommend(KNOWN.users.ids, k=5)
    before.update(NEW, progress=False)
    after = before.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in parameters.items())
    pd.testing.assert_frame_equal(before.recommend(KNOWN.users.ids, k=5), lists)


def test_held_out_events_are_new(before, updated):
    split, known = updated.split, before.split.log
    pairs = {
        (known.users.ids[u], known.items.ids[i], t)
        for u, i, t in zip(known.user, known.item, known.time, strict=True)
    }
    for part in (split.valid, split.test):
        rows = zip(part.user, part.item, part.time, strict=True)
        assert len(part)
        assert not any((part.users.ids[u], part.items.ids[i], t) in pairs for u, i, t in rows)


def test_what_validation_chose_before_is_kept(before, updated):
    assert before.config.loss.horizon == 0
    assert updated.config.loss.horizon == 1  # a third of the three held-out events


def test_equal_seeds_give_equal_updates(before, updated):
    again = before.update(NEW, progress=False).model.state_dict()
    assert all(torch.equal(again[name], v) for name, v in updated.model.state_dict().items())


def test_without_a_gain_on_validation_nothing_is_learned(before, monkeypatch):
    calls = iter(range(100))
    names = ("ndcg", "ndcg_likes", "ndcg_mean")
    worse = lambda self: dict.fromkeys(names, 1 / (1 + next(calls)))  # noqa: E731
    monkeypatch.setattr(Validation, "__call__", worse)
    other = EmoRec(config=CONFIG.updated({"training": {"refit": 0.0}}, ""))
    other._model, other._split = before.model, before.split
    after = other.update(NEW, progress=False)
    known = KNOWN.items.ids[:10]
    own, old = (
        each.model.item_vectors[each.split.train.items.indices(known)] for each in (after, before)
    )
    assert len(after.records) == 2
    torch.testing.assert_close(own, old)


def test_both_are_judged_by_the_newest_events(before, updated):
    judged = judge_update(updated, before, k=5, progress=False)
    names = list(judged.results)
    assert names[:2] == [updated.config.preset, BEFORE] and "MostPop" in names
    users = len(np.unique(updated.split.test.user))
    assert all(len(result.per_user) == users for result in judged.results.values())


@pytest.mark.parametrize(
    ("events", "message"),
    [
        (KNOWN, "no new events: the log of the model has all that were given"),
        (NEW.select(np.zeros(0, dtype=np.int64)), "no new events"),
        (NEW.select(np.arange(1)), "1 new event cannot judge a model: no user has three"),
    ],
)
def test_events_that_cannot_be_used(before, events, message):
    with pytest.raises(ValueError, match=message):
        before.update(events, progress=False)


class TestCommand:
    @pytest.fixture
    def run(self, tmp_path_factory) -> Path:
        folder = tmp_path_factory.mktemp("update")
        lines = log_lines(events=16)
        data = write_log(folder / "log.csv", lines[:60])
        write_log(folder / "new.csv", lines[60:])
        settings = ("--preset", "emo-sage-thp", "--epochs", 3, "--batch-size", 1)
        result = call(cli.train, "--dataset", data, "--run-dir", folder / "run", *settings, *TINY)
        assert result.exit_code == 0, result.output
        return folder / "run"

    def options(self, run: Path, folder: Path) -> list[str]:
        return ["--continue", run, "--events", run.parent / "new.csv", "--run-dir", folder]

    def test_trains_on_and_shows_both(self, run, tmp_path):
        result = call(cli.train, *self.options(run, tmp_path / "next"))
        assert result.exit_code == 0, result.output
        assert "users and" in result.stdout and "are the validation split" in result.stdout
        assert BEFORE in result.stdout
        assert (tmp_path / "next" / "report.html").exists()
        loaded = EmoRec.load(tmp_path / "next")
        assert len(loaded.split.log) > len(EmoRec.load(run).split.log)

    def test_a_command_that_was_killed_before_it_began_the_run_can_be_given_again(
        self, run, tmp_path
    ):
        whole, killed = tmp_path / "whole", tmp_path / "killed"
        assert call(cli.train, *self.options(run, whole)).exit_code == 0
        shutil.copytree(whole / "start", killed / "start")
        (killed / "start" / "model.safetensors").unlink()
        message = "config.toml is missing"
        assert_fails(cli.train, "--resume", killed, message=message)
        message = "exists and is not empty; choose another --run-dir$"
        assert_fails(
            cli.train, "--dataset", run.parent / "log.csv", "--run-dir", killed, message=message
        )
        assert call(cli.train, *self.options(run, killed)).exit_code == 0
        assert_same_run(killed, whole)

    def test_a_stopped_update_resumes_without_the_old_run(self, run, tmp_path, monkeypatch):
        whole, stopped, old = tmp_path / "whole", tmp_path / "stopped", tmp_path / "old"
        shutil.copytree(run, old)
        shutil.copy(run.parent / "new.csv", tmp_path / "new.csv")
        assert call(cli.train, *self.options(run, whole)).exit_code == 0
        with monkeypatch.context() as patch:
            interrupt_training(patch, 2, KeyboardInterrupt)
            assert call(cli.train, *self.options(old, stopped)).exit_code == 130
        assert len(records(stopped)) == 1
        shutil.rmtree(old)
        assert call(cli.train, "--resume", stopped).exit_code == 0
        assert_same_run(stopped, whole)

    def test_wrong_options(self, run, tmp_path):
        assert_fails(cli.train, "--continue", run, message="need each other")
        assert_fails(cli.train, "--events", run.parent / "new.csv", message="need each other")
        wrong = [*self.options(run, tmp_path / "next"), "--preset", "emorec"]
        assert_fails(cli.train, *wrong, message="--continue uses the run's own settings")
        known = ["--continue", run, "--events", run.parent / "log.csv"]
        assert_fails(
            cli.train, *known, "--run-dir", tmp_path / "next", message="there are no new events"
        )
        assert not (tmp_path / "next" / "config.toml").exists()


def test_an_update_keeps_what_is_known_of_items():
    table = pd.DataFrame(
        {
            "item_id": [*LOG.items.ids, "new 1", "new 2"],
            "title": [f"Title {item}" for item in LOG.items.ids] + ["One", "Two"],
            "genre": ["a" if number % 2 else "b" for number in range(len(LOG.items) + 2)],
        }
    )
    before = EmoRec(config=CONFIG).fit(KNOWN, items=table, progress=False)
    assert {"new 1", "new 2"} <= set(before.cold_items)
    after = before.update(NEW, progress=False)
    known = set(after.split.train.items.ids)
    assert set(after.cold_items) == {*table["item_id"]} - known
    assert after.titles == before.titles
    features = after._items.features
    old = before._items.features
    for item in [*after.split.train.items.ids[:5], "new 2"]:
        own, its = (each.matrix[each.items.indices([item])[0]] for each in (features, old))
        assert (own != its).nnz == 0
    lists = after.recommend(NEW.users.ids[:5], k=40, cold=True)
    assert lists["cold"].any()
