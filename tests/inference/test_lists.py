from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import torch

from emorec import EmoRec, Interactions
from emorec.baselines import ItemPrior, MostPop
from emorec.data.feedback import Feedback
from emorec.data.readers import read_interactions
from emorec.data.splits import split_interactions
from emorec.data.synthetic import generate
from emorec.evaluation import scores
from emorec.evaluation.top_k import excluded_items, recommend_top_k
from emorec.inference.ranking import ModelScorer
from tests.small import small_config, small_log

LOG = generate(num_users=40, num_items=50, num_topics=8, events_per_user=12).interactions
CONFIG = small_config("training.epochs=1")
USERS = LOG.users.ids


def seen_items(log, user):
    return {log.items.ids[i] for i in log.item[log.user == log.users.ids.index(user)]}


def read(frame):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of rules that match no row
        return read_interactions(frame, rules="ratings")[0]


@pytest.fixture(scope="module")
def fitted():
    return EmoRec(config=CONFIG).fit(LOG, progress=False)


@pytest.fixture(scope="module")
def flagship():
    return EmoRec(config=small_config("training.epochs=1", preset="emorec")).fit(
        LOG, progress=False
    )


class TestRecommend:
    def test_lists_in_the_order_asked_for(self, fitted):
        users = [USERS[5], "a stranger", USERS[2], USERS[5]]
        lists = fitted.recommend(users, k=3)
        assert lists.columns.tolist() == ["user", "rank", "item", "score", "liked", "source"]
        assert lists["user"].tolist() == list(np.repeat(users, 3))
        assert lists["rank"].tolist() == [1, 2, 3] * 4
        assert lists["source"].tolist() == ["model"] * 3 + ["popular"] * 3 + ["model"] * 6
        assert lists["item"][:3].tolist() == lists["item"][9:].tolist()
        for start in (0, 6, 9):
            assert lists["score"][start : start + 3].is_monotonic_decreasing

    def test_how_probably_they_are_liked(self, fitted, monkeypatch):
        monkeypatch.setattr(scores, "_MOST_USERS", 2)
        users = [USERS[5], "a stranger", USERS[2], USERS[0]]
        lists = fitted.recommend(users, k=1000)  # some lists end before others
        anybody = ItemPrior().fit(fitted.split.history)(torch.zeros(1, dtype=torch.int64))[0]
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

    def test_a_model_without_a_head_for_items_has_no_column_of_it(self):
        config = small_config("training.epochs=1", preset="diff-gat-thp-polarity")
        lists = EmoRec(config=config).fit(LOG, progress=False).recommend([USERS[0], "a stranger"])
        assert lists.columns.tolist() == ["user", "rank", "item", "score", "source"]

    @pytest.mark.parametrize("preset", ["emorec", "base-gat", "emo-sage-thp"])
    def test_who_else_asks_changes_nothing(self, preset):
        config = small_config("training.epochs=1", preset=preset)
        recommender = EmoRec(config=config).fit(LOG, progress=False)
        together = recommender.recommend(USERS[:3], k=5)
        for user in USERS[:3]:
            alone = recommender.recommend([user], k=5)
            expected = together[together["user"] == user].reset_index(drop=True)
            pd.testing.assert_frame_equal(alone, expected, rtol=1e-4)

    def test_nothing_that_the_user_has_met(self, fitted):
        lists = fitted.recommend(USERS, k=10)
        for user in USERS:
            items = lists["item"][lists["user"] == user]
            assert len(set(items)) == 10
            assert not set(items) & seen_items(LOG, user)

    def test_the_test_part_is_seen_too_but_for_lists_to_be_evaluated(self, tmp_path):
        split = split_interactions(LOG, n=3)
        recommender = EmoRec(config=CONFIG).fit(split, progress=False)
        with pytest.warns(UserWarning, match="to evaluate them, give before_test=True"):
            lists = recommender.recommend(USERS, k=50)
        recommender.save(tmp_path)
        loaded = EmoRec.load(tmp_path)
        pd.testing.assert_frame_equal(loaded.recommend(USERS, k=50), lists)
        before = loaded.recommend(USERS, k=50, before_test=True)
        for user in USERS:
            items, others = (set(each["item"][each["user"] == user]) for each in (lists, before))
            assert not items & seen_items(split.log, user)
            assert others == items | seen_items(split.log, user) - seen_items(split.history, user)

    def test_unknown_users_get_what_is_popular(self, fitted):
        counts = MostPop().fit(LOG)(np.zeros(1, dtype=int))[0].numpy()
        popular = [LOG.items.ids[i] for i in np.argsort(-counts, kind="stable")[:5]]
        with pytest.warns(
            UserWarning, match="no events of 3 of 4 users, such as 'a stranger', who get"
        ):
            lists = fitted.recommend(["a stranger", USERS[0], None, 7], k=5)
        lists = lists[lists["user"] != USERS[0]]
        assert lists["item"].tolist() == popular * 3
        assert set(lists["source"]) == {"popular"}
        assert lists["score"].isna().all()  # not a number of events beside the model's scores
        assert lists["user"].tolist() == ["a stranger"] * 5 + [None] * 5 + [7] * 5

    def test_one_unknown_user(self, fitted):
        with pytest.warns(UserWarning, match="no events of user 40, who gets the most popular"):
            fitted.recommend([np.int64(40)], k=5)

    def test_seen_items_on_request(self, fitted):
        users = [*USERS[:3], "a stranger"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            lists = fitted.recommend(users, k=1000, allow_seen=True)
            fitted.config = fitted.config.with_settings("evaluation.seen=include")
            by_setting = fitted.recommend(users, k=1000)
            fitted.config = CONFIG
        assert lists.groupby("user").size().tolist() == [LOG.num_items] * 4
        pd.testing.assert_frame_equal(lists, by_setting)
        ranked = lists[lists["user"] == USERS[0]]["item"]
        unseen = fitted.recommend(USERS[:1], k=1000)["item"]
        assert [i for i in ranked if i not in seen_items(LOG, USERS[0])] == unseen.tolist()

    def test_a_progress_bar_if_asked_for(self, fitted, capsys):
        fitted.recommend(USERS)
        assert capsys.readouterr().err == ""
        fitted.recommend(USERS, progress=True)
        assert f"/{len(USERS)} " in capsys.readouterr().err

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

    @pytest.mark.parametrize(
        "user",
        ["user 1", 7, np.int64(7), None, np.array("user 1"), {"a": 1}, pd.DataFrame({"u": [1]})],
    )
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
        with pytest.warns(UserWarning, match=r"2 of \d+ events are left out.*'a novelty'"):
            found = flagship.recommend(["a twin"], events=strange)
        pd.testing.assert_frame_equal(found, flagship.recommend(["a twin"], events=events))
        with pytest.warns(UserWarning, match="'a novelty'"):
            found = flagship.recommend(["a twin"], events=events.assign(item_id="a novelty"))
        assert set(found["source"]) == {"popular"}

    @pytest.mark.parametrize("preset", ["", "diff-gat", "base-gat"])
    def test_new_users_of_a_model_with_a_vector_per_user(self, preset):
        config = small_config("training.epochs=1", "graph.user_embeddings=true", preset=preset)
        recommender = EmoRec(config=config).fit(LOG, progress=False)
        now = int(LOG.time.max()) + 60
        events = pd.concat(
            [self.events_of(3, "a twin"), self.events_of(5, USERS[4], timestamp=now)]
        )
        with pytest.warns(UserWarning, match="new users, and this model has an embedding per user"):
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

    def test_events_that_no_rule_matches(self, flagship):
        events = self.events_of(3).assign(rating=0)
        with pytest.warns(UserWarning, match="no rule matches any of the .* All are left out"):
            found = flagship.recommend([USERS[3]], events=events)
        pd.testing.assert_frame_equal(found, flagship.recommend([USERS[3]]))

    def test_events_that_cannot_be_read(self, flagship):
        with pytest.raises(ValueError, match="'rating'.*'good'"):
            flagship.recommend(["a twin"], events=self.events_of(3, "a twin", rating="good"))


class TestAt:
    """Lists at a time: without the users' later events."""

    user, other = 5, 6
    times = np.sort(LOG.time[LOG.user == user])

    @pytest.mark.parametrize("settings", [(), ("graph.layers=3",)])
    def test_leaves_later_events_out(self, settings):
        recommender = EmoRec(config=small_config("training.epochs=1", *settings))
        recommender.fit(LOG, progress=False)
        users, time = [USERS[self.user], USERS[self.other]], int(self.times[4])
        lists = recommender.recommend(users, at=[time, int(LOG.time.max())])
        is_later = (LOG.user == self.user) & (LOG.time > time)
        assert 1 < is_later.sum() < 8
        scorer = ModelScorer(recommender.model, LOG.select(~is_later))
        known = LOG.select(~is_later)
        index = np.array([self.user, self.other])
        topk = recommend_top_k(scorer, index, known, 10)
        assert lists["item"].tolist() == LOG.items.lookup(topk.items.flatten().numpy())
        np.testing.assert_allclose(lists["score"], topk.scores.flatten(), rtol=1e-4, atol=1e-5)
        # items of later events may be listed: at that time they were not seen
        everything = recommender.recommend(users[:1], k=1000, at=time)["item"]
        assert len(everything) == LOG.num_items - len(np.unique(known.item[known.user == 5]))

    def test_a_time_after_all_events_changes_nothing(self, fitted):
        lists = fitted.recommend(USERS)
        pd.testing.assert_frame_equal(fitted.recommend(USERS, at="2100-01-01"), lists)
        newest = int(LOG.time.max())
        pd.testing.assert_frame_equal(fitted.recommend(USERS, at=newest), lists)

    def test_one_time_for_all_or_one_per_user(self, fitted):
        time = int(np.median(LOG.time))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of users without events then
            one = fitted.recommend(USERS, at=time)
            date = pd.Timestamp(time, unit="s")
            pd.testing.assert_frame_equal(fitted.recommend(USERS, at=[time] * len(USERS)), one)
            pd.testing.assert_frame_equal(fitted.recommend(USERS, at=date), one)
            pd.testing.assert_frame_equal(fitted.recommend(USERS, at=date.isoformat()), one)
            # a list does not depend on who else is asked for
            alone = fitted.recommend([USERS[7]], at=time)
        found = one[one["user"] == USERS[7]].reset_index(drop=True)
        pd.testing.assert_frame_equal(alone, found, rtol=1e-4, atol=1e-5)

    def test_before_the_first_event_a_user_is_unknown(self, fitted):
        first = int(self.times[0])
        assert fitted.recommend([USERS[self.user]], at=first)["source"].unique() == ["model"]
        message = "no events of user 'user-0005' up to the time of the request, who gets the most"
        with pytest.warns(UserWarning, match=message):
            lists = fitted.recommend([USERS[self.user]], at=first - 1)
        with pytest.warns(UserWarning, match="no events of user 'a stranger', who gets the most"):
            strangers = fitted.recommend(["a stranger"])
        columns = ["rank", "item", "score", "liked", "source"]
        pd.testing.assert_frame_equal(lists[columns], strangers[columns])

    def test_new_events_count_up_to_that_time(self, flagship):
        unseen = [i for i in LOG.items.ids if i not in seen_items(LOG, USERS[self.user])][:2]
        newest = int(LOG.time.max())
        events = pd.DataFrame(
            {
                "user_id": [USERS[self.user], "a new one", "a late one"],
                "item_id": [*unseen, unseen[0]],
                "rating": [5, 5, 5],
                "timestamp": [newest + 10, newest + 10, newest + 30],
            }
        )
        users = [USERS[self.user], "a new one", "a late one"]
        with pytest.warns(UserWarning, match="'a late one' up to the time of the request"):
            lists = flagship.recommend(users, k=100, events=events, at=newest + 20)
        source = lists.groupby("user", sort=False)["source"].first()
        assert source.tolist() == ["model", "model", "popular"]
        own = lists[lists["user"] == USERS[self.user]]["item"].tolist()
        assert unseen[0] not in own and unseen[1] in own
        assert unseen[0] in lists[lists["user"] == "a late one"]["item"].tolist()

    def test_a_number_is_in_the_unit_of_the_log_whatever_that_of_events(self, fitted):
        newest = int(LOG.time.max())
        rows = [[USERS[0], LOG.items.ids[0], 5, 1000 * newest + 1]]
        events = pd.DataFrame(rows, columns=["user_id", "item_id", "rating", "timestamp"])
        users = [USERS[self.user]]
        lists = fitted.recommend(users, events=events, at=int(self.times[4]))
        pd.testing.assert_frame_equal(lists, fitted.recommend(users, at=int(self.times[4])))

    @pytest.mark.parametrize(
        ("at", "message"),
        [
            ("soon", "at: 'soon' is not a valid time"),
            ([1, 2], "at has 2 times for 1 user; give one time for all users"),
            (1_700_000_000_000, "at: 1700000000000 is after the year 4968"),
        ],
    )
    def test_what_is_not_a_time(self, fitted, at, message):
        with pytest.raises(ValueError, match=message):
            fitted.recommend([USERS[0]], at=at)

    def test_needs_a_log_with_times(self):
        log = Interactions.from_columns([0, 0, 1, 1], [0, 1, 1, 0], [0] * 4, [0] * 4, "none")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            recommender = EmoRec(config=CONFIG).fit(log, progress=False)
        with pytest.raises(ValueError, match="at: the log has no times, got 5; leave at out"):
            recommender.recommend([0], at=5)
        config = CONFIG.with_settings("sequence.request_time=true")
        with pytest.raises(ValueError, match="request_time is true, which needs a log with times"):
            EmoRec(config=config).fit(log, progress=False)


class TestRequestTime:
    """Models that encode the time until the request."""

    @staticmethod
    def log_of_two_intervals():
        """Items 0 to 4 follow after 30 seconds, items 5 to 9 after a day."""
        rng = np.random.default_rng(0)
        is_late = rng.random((60, 20)) < 0.5
        item = rng.integers(5, size=is_late.shape) + 5 * is_late
        time = 10**9 + np.where(is_late, 86_400, 30).cumsum(1)
        user = np.repeat(np.arange(60), 20)
        rows = np.stack([user, item.ravel(), 0 * user, time.ravel()], axis=1)
        return small_log(rows, 60, 10)

    def fitted(self, request_time, log, *settings):
        config = small_config(
            "graph.conv=none",
            "model.polarity=none",
            "model.aversion=0",
            "loss.horizon=1",
            "evaluation.seen=include",
            "split.n=1",
            f"sequence.request_time={str(request_time).lower()}",
            *settings,
        )
        return EmoRec(config=config).fit(log, progress=False)

    def test_what_follows_after_which_time_is_learned(self, tmp_path):
        log = self.log_of_two_intervals()
        last = np.zeros(60, dtype=np.int64)
        np.maximum.at(last, log.user, log.time)

        def lists(recommender, seconds):
            found = recommender.recommend(range(60), k=5, at=last + seconds)
            return found["item"].to_numpy().reshape(60, 5)

        recommender = self.fitted(True, log, "training.epochs=6")
        soon, late = lists(recommender, 30), lists(recommender, 86_400)
        assert (soon < 5).all() and (late >= 5).all()
        recommender.save(tmp_path / "run")
        assert (lists(EmoRec.load(tmp_path / "run"), 86_400) == late).all()
        without = self.fitted(False, log, "training.epochs=6")
        assert (lists(without, 30) == lists(without, 86_400)).all()

    def test_evaluation_is_at_the_first_held_out_event(self):
        log = self.log_of_two_intervals()
        split = split_interactions(log, n=1)
        recommender = self.fitted(True, split, "training.epochs=12", "training.patience=12")
        topk = recommend_top_k(
            recommender.scorer(), split.test.user, excluded_items(split.history, "include"), 5
        )
        assert ((topk.items < 5).numpy() == (split.test.item < 5)[:, None]).all()
        lists = recommender.recommend(range(60), k=5, before_test=True)
        by_user = topk.items[np.argsort(split.test.user)]
        assert lists["item"].tolist() == by_user.flatten().tolist()
        # validation likewise
        assert (
            recommender.records[-1].valid["ndcg"]
            > 1.3
            * self.fitted(False, split, "training.epochs=12", "training.patience=12")
            .records[-1]
            .valid["ndcg"]
        )

    def test_by_default_at_the_newest_event_of_all(self):
        log = self.log_of_two_intervals()
        recommender = self.fitted(True, log, "training.epochs=1")
        newest = int(log.time.max())
        lists = recommender.recommend([3, 4])
        pd.testing.assert_frame_equal(lists, recommender.recommend([3, 4], at=newest))
        events = pd.DataFrame(
            [[4, 0, 5, newest + 10**7]], columns=["user_id", "item_id", "rating", "timestamp"]
        )
        later = recommender.recommend([3], events=events)
        expected = recommender.recommend([3], at=newest + 10**7)
        pd.testing.assert_frame_equal(later, expected)
        assert not np.allclose(later["score"], lists["score"][:10])
