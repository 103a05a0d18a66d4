from __future__ import annotations

import math
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from emorec import EmoRec, Interactions
from emorec.baselines import MostPop
from emorec.config import ConfigError
from emorec.data.splits import Split, split_interactions
from emorec.data.synthetic import generate
from emorec.files import FileError
from emorec.recommender import NotFittedError
from emorec.training import train
from tests.small import small_config

LOG = generate(num_users=40, num_items=50, num_topics=8, events_per_user=12).interactions
CONFIG = small_config("", "training.epochs=1")
USERS = LOG.users.ids


def seen_items(log, user):
    return {log.items.ids[i] for i in log.item[log.user == log.users.ids.index(user)]}


@pytest.fixture(scope="module")
def fitted():
    return EmoRec(config=CONFIG).fit(LOG, progress=False)


@pytest.fixture(scope="module")
def saved(fitted, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    fitted.save(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of a saved run, to damage."""
    return shutil.copytree(saved, tmp_path / "run")


class TestFit:
    def test_by_preset_and_settings(self):
        recommender = EmoRec("diff-gat", "training.epochs=3", "model.embedding_size=4")
        assert recommender.config.preset == "diff-gat"
        assert recommender.config.training.epochs == 3
        with pytest.raises(ConfigError, match="did you mean 'diff-gat'"):
            EmoRec("diffgat")

    def test_on_interactions_holds_out_for_validation_only(self, fitted):
        split = fitted.split
        assert len(split.train) + len(split.valid) == len(LOG)
        assert len(split.test) == 0
        assert len(fitted.records) == 1
        assert fitted.records[0].valid["ndcg"] >= 0

    def test_on_a_data_frame(self):
        rng = np.random.default_rng(0)
        frame = pd.DataFrame(
            {
                "user_id": [f"Zoë {u}" for u in np.repeat(np.arange(12), 10)],
                "item_id": rng.integers(100, 130, 120),
                "rating": np.tile([5, 4, 3, 2, 1], 24),
                "timestamp": 1_600_000_000 + 60 * np.arange(120),
            }
        )
        recommender = EmoRec(config=CONFIG).fit(frame, progress=False)
        lists = recommender.recommend(["Zoë 3", "Zoë 11"], k=4)
        assert lists["user"].tolist() == ["Zoë 3"] * 4 + ["Zoë 11"] * 4
        for user in ("Zoë 3", "Zoë 11"):
            known = set(frame.item_id[frame.user_id == user])
            assert not known & set(lists["item"][lists["user"] == user])

    def test_a_data_frame_without_a_column(self):
        with pytest.raises(ValueError, match="user_id"):
            EmoRec(config=CONFIG).fit(pd.DataFrame({"item_id": [1]}), progress=False)

    def test_refit_goes_on_with_the_held_out_part_too(self):
        config = small_config("", "training.refit=0.6")
        recommender = EmoRec(config=config).fit(LOG, progress=False)
        chosen = max(recommender.records[:2], key=lambda record: record.valid["ndcg"]).epoch
        refitted = recommender.records[2:]
        assert [record.epoch for record in refitted] == [1, 2][: math.ceil(0.6 * chosen)]
        assert all(record.valid == {} for record in refitted)
        before = EmoRec(config=small_config("")).fit(LOG, progress=False)
        nothing = LOG.select(np.zeros(0, dtype=np.int64))
        config = small_config("", f"training.epochs={len(refitted)}")
        train(before.model, config, before.split.history, nothing, progress=False, anneal=True)
        pd.testing.assert_frame_equal(before.recommend(USERS), recommender.recommend(USERS))


class TestRecommend:
    def test_lists_in_the_order_asked_for(self, fitted):
        users = [USERS[5], "a stranger", USERS[2], USERS[5]]
        lists = fitted.recommend(users, k=3)
        assert lists.columns.tolist() == ["user", "rank", "item", "score", "source"]
        assert lists["user"].tolist() == list(np.repeat(users, 3))
        assert lists["rank"].tolist() == [1, 2, 3] * 4
        assert lists["source"].tolist() == ["model"] * 3 + ["popular"] * 3 + ["model"] * 6
        assert lists["item"][:3].tolist() == lists["item"][9:].tolist()
        for start in range(0, 12, 3):
            assert lists["score"][start : start + 3].is_monotonic_decreasing

    def test_nothing_that_the_user_has_met(self, fitted):
        lists = fitted.recommend(USERS, k=10)
        for user in USERS:
            items = lists["item"][lists["user"] == user]
            assert len(set(items)) == 10
            assert not set(items) & seen_items(LOG, user)

    def test_unknown_users_get_what_is_popular(self, fitted):
        counts = MostPop().fit(LOG)(np.zeros(1, dtype=int))[0].numpy()
        popular = [LOG.items.ids[i] for i in np.argsort(-counts, kind="stable")[:5]]
        lists = fitted.recommend(["a stranger", None, 7], k=5)
        assert lists["item"].tolist() == popular * 3
        assert set(lists["source"]) == {"popular"}
        assert lists["user"].tolist() == ["a stranger"] * 5 + [None] * 5 + [7] * 5

    def test_lists_end_with_the_catalogue(self, fitted):
        lists = fitted.recommend([USERS[0], "a stranger"], k=1000)
        unseen = set(LOG.items.ids) - seen_items(LOG, USERS[0])
        assert set(lists["item"][lists["user"] == USERS[0]]) == unseen
        assert (lists["user"] == "a stranger").sum() == LOG.num_items

    def test_nobody(self, fitted):
        lists = fitted.recommend([])
        assert len(lists) == 0
        assert lists.columns.tolist() == ["user", "rank", "item", "score", "source"]

    def test_k_is_at_least_one(self, fitted):
        with pytest.raises(ValueError, match="k must be at least 1, got 0"):
            fitted.recommend([USERS[0]], k=0)

    def test_ids_of_any_kind(self):
        rng = np.random.default_rng(0)

        def fit(ids):
            log = Interactions.from_columns(
                np.repeat(ids, 8), rng.integers(0, 20, 8 * len(ids)), [0] * 8 * len(ids),
                np.arange(8 * len(ids)),
            )  # fmt: skip
            return EmoRec(config=CONFIG).fit(log, progress=False)

        numbers = fit([17, 4, 99])
        as_text, as_number = (numbers.recommend([user], k=3) for user in ("17", 17))
        assert as_text["source"].tolist() == ["model"] * 3
        assert as_text["item"].tolist() == as_number["item"].tolist()
        texts = fit(["17", "two words", "東京"])
        for user in ("17", 17, "two words", "東京"):
            assert set(texts.recommend([user], k=3)["source"]) == {"model"}

    def test_before_fitting(self):
        recommender = EmoRec()
        for ask in (
            lambda: recommender.recommend(["a"]),
            lambda: recommender.model,
            lambda: recommender.split,
            lambda: recommender.scorer(),
        ):
            with pytest.raises(NotFittedError, match=r"call fit\(\) or load\(\) first"):
                ask()

    def test_before_fitting_nothing_is_saved(self, tmp_path):
        with pytest.raises(NotFittedError):
            EmoRec().save(tmp_path / "run")
        assert not (tmp_path / "run").exists()


class TestSaveAndLoad:
    def test_the_same_lists(self, fitted, saved):
        loaded = EmoRec.load(saved)
        assert loaded.config == fitted.config
        users = [*USERS, "a stranger"]
        pd.testing.assert_frame_equal(loaded.recommend(users), fitted.recommend(users))

    @pytest.mark.parametrize("preset", ["", "diff-gat", "base-gat"])
    def test_another_backend_gives_the_same_lists(self, tmp_path, preset):
        pytest.importorskip("dgl")
        config = small_config(preset, "training.epochs=1")
        EmoRec(config=config).fit(LOG, progress=False).save(tmp_path)
        one, other = EmoRec.load(tmp_path), EmoRec.load(tmp_path, backend="dgl")
        assert other.config.model.backend == "dgl"
        ours, theirs = one.recommend(USERS, k=5), other.recommend(USERS, k=5)
        assert ours["item"].tolist() == theirs["item"].tolist()
        np.testing.assert_allclose(ours["score"], theirs["score"], rtol=1e-4, atol=1e-4)

    def test_aversion_is_chosen_anew(self, fitted, saved):
        own = fitted.config.model.aversion
        assert EmoRec.load(saved).model.aversion == own > 0
        one, other = (EmoRec.load(saved, aversion=value) for value in (own, 50.0))
        assert one.recommend(USERS)["item"].tolist() == fitted.recommend(USERS)["item"].tolist()
        assert other.recommend(USERS)["item"].tolist() != fitted.recommend(USERS)["item"].tolist()

    def test_aversion_of_a_model_that_knows_no_polarity(self, tmp_path):
        EmoRec(config=small_config("diff-gat", "training.epochs=1")).fit(LOG, progress=False).save(
            tmp_path
        )
        with pytest.raises(ConfigError, match="aversion is 2.0, which needs model.polarity 'item'"):
            EmoRec.load(tmp_path, aversion=2.0)

    def test_saving_again_over_an_old_run(self, fitted, folder):
        fitted.save(folder)
        pd.testing.assert_frame_equal(EmoRec.load(folder).recommend(USERS), fitted.recommend(USERS))

    def test_a_full_disk_keeps_the_old_run(self, fitted, folder, monkeypatch):
        before = EmoRec.load(folder).recommend(USERS)

        def no_space(*_args, **_options):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
            patch.setattr("emorec.files.save_file", no_space)
            fitted.save(folder)
        assert not [path for path in folder.iterdir() if path.suffix == ".tmp"]
        pd.testing.assert_frame_equal(EmoRec.load(folder).recommend(USERS), before)

    def test_unknown_backend(self, saved):
        with pytest.raises(
            ConfigError, match="backend: model.backend is 'jax'.*one of: dgl, torch"
        ):
            EmoRec.load(saved, backend="jax")

    @pytest.mark.parametrize(
        "name",
        ["config.toml", "vocabulary.json", "interactions.safetensors", "model.safetensors"],
    )
    def test_a_missing_file(self, folder, name):
        (folder / name).unlink()
        with pytest.raises(FileError, match=f"{name} is missing"):
            EmoRec.load(folder)

    def test_a_damaged_model(self, folder):
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-10])
        with pytest.raises(FileError, match="model.safetensors: is damaged"):
            EmoRec.load(folder)

    def test_parameters_of_another_shape(self, folder):
        config = folder / "config.toml"
        text = config.read_text()
        assert "embedding_size = 8" in text
        config.write_text(text.replace("embedding_size = 8", "embedding_size = 4"))
        with pytest.raises(FileError, match="model.safetensors: does not fit config.toml"):
            EmoRec.load(folder)


def test_the_future_changes_no_recommendation():
    """Whatever is in the test part, lists and scores stay the same."""
    split = split_interactions(LOG, n=3)
    rng = np.random.default_rng(0)
    test = split.test
    order = rng.permutation(len(test))
    permuted = replace(
        split, test=replace(test, item=test.item[order], feedback=test.feedback[order][::-1].copy())
    )
    assert not np.array_equal(permuted.test.item, test.item)
    one, other = (
        EmoRec(config=CONFIG).fit(part, progress=False).recommend(split.train.users.ids, k=20)
        for part in (split, permuted)
    )
    pd.testing.assert_frame_equal(one, other)


def test_the_test_part_is_never_looked_at():
    split = split_interactions(LOG, n=3)

    class Forbidden:
        def __getattr__(self, name):
            raise AssertionError(f"test.{name} was read")

    blind = Split(split.train, split.valid, Forbidden(), 0)
    config = small_config("", "training.epochs=1", "training.refit=1")
    one, other = (
        EmoRec(config=config).fit(part, progress=False).recommend(split.train.users.ids)
        for part in (split, blind)
    )
    pd.testing.assert_frame_equal(one, other)
