from __future__ import annotations

import math
import shutil
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from emorec import EmoRec, Interactions
from emorec.baselines import MeanReaction, MostPop
from emorec.config import ConfigError
from emorec.data.feedback import Feedback
from emorec.data.readers import read_interactions
from emorec.data.splits import Split, split_interactions
from emorec.data.synthetic import generate
from emorec.evaluation import scores
from emorec.evaluation.ranking import recommend_top_k
from emorec.files import FileError
from emorec.recommender import NotFittedError
from emorec.scoring import ModelScorer
from emorec.training import train
from tests.small import small_config, small_log

LOG = generate(num_users=40, num_items=50, num_topics=8, events_per_user=12).interactions
CONFIG = small_config("", "training.epochs=1")
USERS = LOG.users.ids


def seen_items(log, user):
    return {log.items.ids[i] for i in log.item[log.user == log.users.ids.index(user)]}


def read(frame):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of rules that match no row
        return read_interactions(frame)[0]


@pytest.fixture(scope="module")
def fitted():
    return EmoRec(config=CONFIG).fit(LOG, progress=False)


@pytest.fixture(scope="module")
def flagship():
    return EmoRec(config=small_config("emorec", "training.epochs=1")).fit(LOG, progress=False)


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

    @pytest.mark.parametrize("wrong", [{"training.epochs": 2}, ["training.epochs=2"], 7])
    def test_settings_that_are_no_texts(self, wrong):
        with pytest.raises(ConfigError, match="a text such as 'training.epochs=20', got"):
            EmoRec("emorec", wrong)

    @pytest.mark.parametrize("wrong", [None, [1, 2], {}, 7])
    def test_what_is_no_log(self, wrong):
        with pytest.raises(TypeError, match="a log is a DataFrame .*; got"):
            EmoRec(config=CONFIG).fit(wrong)

    def test_on_interactions_holds_out_for_validation_only(self, fitted):
        split = fitted.split
        assert len(split.train) + len(split.valid) == len(LOG)
        assert len(split.test) == 0
        assert len(fitted.records) == 1
        assert 0 < fitted.records[0].valid["ndcg"] < 1

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

    def test_histories_too_short_for_validation(self):
        log = small_log([(user, item, 0, item) for user in range(4) for item in range(3)], 4, 3)
        with pytest.warns(UserWarning, match=r"the epoch, and all 2 run: histories are too sh"):
            recommender = EmoRec(config=small_config("")).fit(log, progress=False)
        assert len(recommender.records) == 2

    @pytest.mark.parametrize(("users", "items", "few"), [(1, 5, "1 user"), (5, 1, "1 item")])
    def test_a_log_without_a_choice(self, users, items, few):
        rows = [(user, item, 0, item) for user in range(users) for item in range(items)]
        with pytest.raises(ValueError, match=f"the log has {few} only; .* at least two users"):
            EmoRec(config=CONFIG).fit(small_log(rows, users, items), progress=False)

    def test_no_validation_part_by_time(self):
        log = small_log([(user, item, 0, 7) for user in range(4) for item in range(3)], 4, 3)
        config = small_config("", "training.epochs=1", "split.method=time", "split.quantile=0.7")
        with pytest.warns(
            UserWarning, match=r"no row is late enough; lower split.quantile \(now 0.7\)"
        ):
            EmoRec(config=config).fit(log, progress=False)

    @pytest.mark.parametrize(
        ("method", "advice"),
        [("leave_last_out", r"lower split.n \(now 1\)"), ("time", r"raise split.quantile \(now")],
    )
    def test_a_validation_part_of_strangers(self, method, advice):
        rows = [(user, item, 0, item) for user in range(4) for item in range(3)]
        rows += [(user, 3 + user, 0, 9) for user in range(4)]  # each one's last item is new
        config = small_config("", "training.epochs=1", f"split.method={method}", "split.n=1")
        config = config.with_settings("split.quantile=0.7")
        with pytest.warns(UserWarning, match=f"all 4 held-out rows are of .* lack; {advice}"):
            EmoRec(config=config).fit(small_log(rows, 4, 7), progress=False)

    def test_rows_that_no_rule_matches(self):
        frame = pd.DataFrame(
            {
                "user_id": [row % 5 for row in range(40)],
                "item_id": [row % 8 for row in range(40)],
                "rating": [-1 if row % 4 == 3 else 5 for row in range(40)],
                "timestamp": range(40),
            }
        )
        with pytest.warns(UserWarning) as caught:
            EmoRec(config=CONFIG).fit(frame, progress=False)
        texts = [str(warning.message) for warning in caught]
        assert any("10 of 40 rows match no rule of feedback and are left out" in t for t in texts)
        assert any("ratings go from -1 to 5" in text for text in texts)

    @pytest.mark.parametrize("user", ["user 1", 7, np.int64(7), None, np.array("user 1")])
    def test_one_id_in_place_of_a_list(self, fitted, user):
        with pytest.raises(ValueError, match="must be a list of ids"):
            fitted.recommend(user)

    def test_an_endless_list_is_the_catalogue(self, fitted):
        pd.testing.assert_frame_equal(
            fitted.recommend(USERS[:2], k=10**12), fitted.recommend(USERS[:2], k=50)
        )

    def test_events_of_nobody(self, fitted):
        empty = pd.DataFrame(columns=["user_id", "item_id", "rating", "timestamp"])
        pd.testing.assert_frame_equal(
            fitted.recommend(USERS[:2], events=empty), fitted.recommend(USERS[:2])
        )

    def test_the_network_is_ready_for_use(self, fitted, saved):
        assert not fitted.model.training
        assert not EmoRec.load(saved).model.training

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

    def test_more_epochs_after_a_refit_are_those_of_an_unbroken_run(self, tmp_path):
        def fitted(epochs, checkpoint):
            config = small_config("", f"training.epochs={epochs}", "training.refit=1")
            recommender = EmoRec(config=config)
            return recommender.fit(LOG, checkpoint=tmp_path / checkpoint, progress=False)

        fitted(1, "resumed.safetensors")
        resumed, unbroken = fitted(3, "resumed.safetensors"), fitted(3, "unbroken.safetensors")
        assert len(unbroken.records) > 4  # another epoch than the first is chosen by then
        assert [r.loss for r in resumed.records] == [r.loss for r in unbroken.records]
        pd.testing.assert_frame_equal(resumed.recommend(USERS), unbroken.recommend(USERS))

    def test_settings_of_data_and_machine_count_here_too(self):
        threads = torch.get_num_threads()
        rows = [(user, item, 0, 1000 * item + user) for user in range(8) for item in range(7)]
        log = small_log([*rows, (0, 7, 0, 9000), (8, 0, 0, 9001)], num_users=9, num_items=8)
        config = small_config("", "training.epochs=1", "training.threads=1")
        config = config.with_settings("data.min_user_events=2", "data.min_item_events=2")
        try:
            torch.set_num_threads(2)
            used = []
            recommender = EmoRec(config=config).fit(
                log, on_epoch=lambda _: used.append(torch.get_num_threads()), progress=False
            )
            assert used == [1]
            assert torch.get_num_threads() == 2  # as before
        finally:
            torch.set_num_threads(threads)
        train = recommender.split.train
        assert (train.num_users, train.num_items) == (8, 7)


class TestRecommend:
    def test_lists_in_the_order_asked_for(self, fitted):
        users = [USERS[5], "a stranger", USERS[2], USERS[5]]
        lists = fitted.recommend(users, k=3)
        assert lists.columns.tolist() == ["user", "rank", "item", "score", "liked", "source"]
        assert lists["user"].tolist() == list(np.repeat(users, 3))
        assert lists["rank"].tolist() == [1, 2, 3] * 4
        assert lists["source"].tolist() == ["model"] * 3 + ["popular"] * 3 + ["model"] * 6
        assert lists["item"][:3].tolist() == lists["item"][9:].tolist()
        for start in range(0, 12, 3):
            assert lists["score"][start : start + 3].is_monotonic_decreasing

    def test_how_probably_they_are_liked(self, fitted, monkeypatch):
        monkeypatch.setattr(scores, "_SCORES_PER_CHUNK", 2 * LOG.num_items)
        users = [USERS[5], "a stranger", USERS[2], USERS[0]]
        lists = fitted.recommend(users, k=1000)  # some lists end before others
        anybody = MeanReaction().fit(fitted.split.history)(torch.zeros(1, dtype=torch.int64))[0]
        predicted = {
            user: fitted.scorer().polarity(
                torch.from_numpy(fitted.split.train.users.indices([user]))
            )[0]
            for user in users
            if user in USERS
        }
        item = fitted.split.train.items.indices(lists["item"].tolist())
        expected = [
            float(predicted.get(user, anybody)[index])
            for user, index in zip(lists["user"], item, strict=True)
        ]
        np.testing.assert_allclose(lists["liked"], expected, rtol=1e-5)

    def test_a_model_that_does_not_judge_items_says_nothing_of_that(self):
        config = small_config("diff-gat-thp-polarity", "training.epochs=1")
        lists = EmoRec(config=config).fit(LOG, progress=False).recommend([USERS[0], "a stranger"])
        assert lists.columns.tolist() == ["user", "rank", "item", "score", "source"]

    def test_nothing_that_the_user_has_met(self, fitted):
        lists = fitted.recommend(USERS, k=10)
        for user in USERS:
            items = lists["item"][lists["user"] == user]
            assert len(set(items)) == 10
            assert not set(items) & seen_items(LOG, user)

    def test_the_test_part_is_met_too_but_for_lists_to_be_judged(self, tmp_path):
        split = split_interactions(LOG, n=3)
        recommender = EmoRec(config=CONFIG).fit(split, progress=False)
        with pytest.warns(UserWarning, match="counts as met.*judged, say before_test=True"):
            lists = recommender.recommend(USERS, k=50)
        recommender.save(tmp_path)
        loaded = EmoRec.load(tmp_path)
        pd.testing.assert_frame_equal(loaded.recommend(USERS, k=50), lists)
        judged = loaded.recommend(USERS, k=50, before_test=True)
        for user in USERS:
            items, others = (set(each["item"][each["user"] == user]) for each in (lists, judged))
            assert not items & seen_items(split.log, user)
            assert others == items | seen_items(split.log, user) - seen_items(split.history, user)

    def test_unknown_users_get_what_is_popular(self, fitted):
        counts = MostPop().fit(LOG)(np.zeros(1, dtype=int))[0].numpy()
        popular = [LOG.items.ids[i] for i in np.argsort(-counts, kind="stable")[:5]]
        with pytest.warns(UserWarning, match="3 of 4 users are unknown .* 'a stranger'; they get"):
            lists = fitted.recommend(["a stranger", USERS[0], None, 7], k=5)
        lists = lists[lists["user"] != USERS[0]]
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
        assert lists.columns.tolist() == ["user", "rank", "item", "score", "liked", "source"]

    @pytest.mark.parametrize("k", [0, -1, 2.5, "3", None, True])
    def test_k_is_a_whole_number_of_at_least_one(self, fitted, k):
        with pytest.raises(ValueError, match="k must be a whole number of at least 1, got"):
            fitted.recommend([USERS[0]], k=k)

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


class TestEvents:
    """Lists that answer to events which nothing was learned from."""

    def events_of(self, user, renamed=None, **columns):
        log = LOG.select(LOG.user == user)
        frame = pd.DataFrame(
            {
                "user_id": renamed or USERS[user],
                "item_id": LOG.items.lookup(log.item),
                "rating": 5 - log.feedback,
                "timestamp": log.time,
            }
        )
        return frame.assign(**columns)

    def test_a_new_user_is_what_the_user_did(self, flagship):
        twin = flagship.recommend(["a twin"], k=5, events=self.events_of(3, "a twin"))
        own = flagship.recommend([USERS[3]], k=5)
        assert set(twin["source"]) == {"model"}
        assert twin["item"].tolist() == own["item"].tolist()
        np.testing.assert_allclose(twin["score"], own["score"], rtol=1e-5, atol=1e-5)

    def test_a_dislike_is_answered_at_once(self, flagship):
        before = flagship.recommend([USERS[3]], k=5)
        best = before["item"][0]
        now = int(LOG.time.max()) + 60
        refusal = pd.DataFrame(
            {"user_id": [USERS[3]], "item_id": [best], "rating": [1], "timestamp": [now]}
        )
        after = flagship.recommend([USERS[3], USERS[4]], k=5, events=refusal)
        scorer = ModelScorer(flagship.model, flagship.split.history.followed_by(read(refusal)))
        expected = recommend_top_k(scorer, [3], flagship.split.history, 6).items[0]
        expected = [item for item in LOG.items.lookup(expected) if item != best]
        assert after["item"][:5].tolist() == expected[:5]
        assert after["item"][:5].tolist() != before["item"][1:].tolist()
        assert after["item"][5:].tolist() == flagship.recommend([USERS[4]], k=5)["item"].tolist()
        assert flagship.recommend([USERS[3]], k=5)["item"].tolist() == before["item"].tolist()

    def test_what_is_known_already_changes_nothing(self, flagship):
        events = pd.concat([self.events_of(3), self.events_of(4)])
        again = flagship.recommend(USERS[:6], events=events)
        pd.testing.assert_frame_equal(again, flagship.recommend(USERS[:6]))

    def test_from_a_file_and_from_interactions(self, flagship, tmp_path):
        events = self.events_of(3, "a twin")
        expected = flagship.recommend(["a twin"], events=events)
        events.to_csv(tmp_path / "events.csv", index=False)
        for source in (tmp_path / "events.csv", str(tmp_path / "events.csv"), read(events)):
            found = flagship.recommend(["a twin"], events=source)
            assert found["item"].tolist() == expected["item"].tolist()

    def test_columns_and_rules_are_those_of_the_configuration(self, flagship):
        events = self.events_of(3, "a twin")
        expected = flagship.recommend(["a twin"], events=events)
        config = flagship.config.with_settings("data.user_column=who", "data.feedback_column=how")
        other = EmoRec(config=config).fit(LOG, progress=False)
        kinds = [Feedback(5 - stars).label for stars in events["rating"]]
        events = events.assign(how=kinds).rename(columns={"user_id": "who"}).drop(columns="rating")
        found = other.recommend(["a twin"], events=events)
        assert found["item"].tolist() == expected["item"].tolist()

    def test_items_that_the_model_does_not_know(self, flagship):
        events = self.events_of(3, "a twin")
        strange = pd.concat([events, events[:2].assign(item_id="a novelty")])
        with pytest.warns(UserWarning, match=r"leaves 2 of \d+ events out.*'a novelty'"):
            found = flagship.recommend(["a twin"], events=strange)
        pd.testing.assert_frame_equal(found, flagship.recommend(["a twin"], events=events))
        with pytest.warns(UserWarning, match="'a novelty'"):
            found = flagship.recommend(["a twin"], events=events.assign(item_id="a novelty"))
        assert set(found["source"]) == {"popular"}

    @pytest.mark.parametrize("preset", ["", "diff-gat", "base-gat"])
    def test_new_users_of_a_model_with_a_vector_per_user(self, preset):
        config = small_config(preset, "training.epochs=1", "graph.user_embeddings=true")
        recommender = EmoRec(config=config).fit(LOG, progress=False)
        now = int(LOG.time.max()) + 60
        events = pd.concat(
            [self.events_of(3, "a twin"), self.events_of(5, USERS[4], timestamp=now)]
        )
        with pytest.warns(
            UserWarning, match="users it does not know, and it has a vector per user"
        ):
            found = recommender.recommend(["a twin", USERS[4]], k=50, events=events)
        twin = found[found["user"] == "a twin"]
        assert set(twin["source"]) == {"popular"}  # but not what the twin has met
        assert set(twin["item"]) == set(LOG.items.ids) - seen_items(LOG, USERS[3])
        items = set(found["item"][found["user"] == USERS[4]])
        assert items == set(LOG.items.ids) - seen_items(LOG, USERS[4]) - seen_items(LOG, USERS[5])

    def test_few_events_of_few_kinds_are_no_surprise(self, flagship):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            flagship.recommend(["a twin"], events=self.events_of(3, "a twin")[:1])

    def test_events_that_cannot_be_read(self, flagship):
        with pytest.raises(ValueError, match="'rating'.*'good'"):
            flagship.recommend(["a twin"], events=self.events_of(3, "a twin", rating="good"))


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

    def test_on_another_device(self, fitted, saved, tmp_path):
        folder = shutil.copytree(saved, tmp_path / "run")
        config = (folder / "config.toml").read_text()
        (folder / "config.toml").write_text(config.replace('device = "cpu"', 'device = "cuda:99"'))
        with pytest.raises(ConfigError, match="device is 'cuda:99', but PyTorch finds .* CUDA dev"):
            EmoRec.load(folder)
        lists = EmoRec.load(folder, device="cpu").recommend(USERS)
        pd.testing.assert_frame_equal(lists, fitted.recommend(USERS))

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
            ConfigError, match="backend: model.backend is 'jax'.*there are 'dgl', 'torch'"
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
    users = split.train.users.ids
    one, other = (
        EmoRec(config=CONFIG).fit(part, progress=False).recommend(users, k=20, before_test=True)
        for part in (split, permuted)
    )
    pd.testing.assert_frame_equal(one, other)


def test_the_test_part_is_never_looked_at():
    split = split_interactions(LOG, n=3)

    class Forbidden:
        def __getattr__(self, name):
            raise AssertionError(f"test.{name} was read")

        def __len__(self):
            return 1

    blind = Split(split.train, split.valid, Forbidden(), 0)
    config = small_config("", "training.epochs=1", "training.refit=1")
    users = split.train.users.ids
    one, other = (
        EmoRec(config=config).fit(part, progress=False).recommend(users, before_test=True)
        for part in (split, blind)
    )
    pd.testing.assert_frame_equal(one, other)
