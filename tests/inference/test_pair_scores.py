from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import torch

from emorec import EmoRec
from emorec.baselines import ItemPrior
from emorec.data.splits import split_interactions
from emorec.data.synthetic import generate
from emorec.evaluation import scores as chunks
from tests.small import small_config

LOG = generate(num_users=40, num_items=50, num_topics=8, events_per_user=12).interactions
CONFIG = small_config("training.epochs=1")
USERS, ITEMS = LOG.users.ids, LOG.items.ids


@pytest.fixture(scope="module")
def fitted():
    return EmoRec(config=CONFIG).fit(LOG, progress=False)


class TestScores:
    def test_are_those_of_lists_in_the_order_given(self, fitted, monkeypatch):
        monkeypatch.setattr(chunks, "_MOST_USERS", 3)
        lists = fitted.recommend(USERS, k=50, allow_seen=True)
        pairs = lists.sample(frac=0.1, random_state=0, ignore_index=True)
        found = fitted.score(pairs)
        assert found.columns.tolist() == ["user", "item", "score", "liked", "source"]
        assert found["source"].unique().tolist() == ["model"]
        pd.testing.assert_frame_equal(found, pairs[found.columns], rtol=1e-4, atol=1e-5)

    def test_of_unknown_users_and_items(self, fitted):
        pairs = [(USERS[1], ITEMS[0]), ("x", ITEMS[0]), (USERS[1], "y"), ("x", "y"), ("z", "y")]
        with pytest.warns(UserWarning) as caught:
            found = fitted.score(pairs)
        (warning,) = caught
        assert str(warning.message) == (
            "4 of 5 pairs have no score: 3 of users without events, such as 'x', and 3 of unknown "
            "items, such as 'y'"
        )
        assert warning.filename == __file__
        assert list(zip(found["user"], found["item"], strict=True)) == pairs
        assert found["score"].isna().tolist() == [False, True, True, True, True]
        assert found["source"].tolist()[:2] == ["model", "popular"]
        assert found["source"].isna().tolist() == [False, False, True, True, True]
        prior = ItemPrior().fit(LOG)(torch.zeros(1, dtype=torch.int64))[0, 0]
        assert found["liked"][1] == prior
        assert found["liked"].isna().tolist() == [False, False, True, True, True]
        with pytest.warns(UserWarning, match="^1 of 1 pairs has no score: 1 of unknown items"):
            fitted.score([(USERS[0], "y")])

    @pytest.mark.parametrize("names", [("user_id", "item_id"), ("user", "item")])
    def test_columns(self, fitted, names):
        frame = pd.DataFrame([[USERS[0], ITEMS[3]], [USERS[2], ITEMS[3]]], columns=names)
        expected = fitted.score([(USERS[0], ITEMS[3]), (USERS[2], ITEMS[3])])
        pd.testing.assert_frame_equal(fitted.score(frame.assign(other=1)), expected)
        polars = pytest.importorskip("pyarrow").Table.from_pandas(frame)
        pd.testing.assert_frame_equal(fitted.score(polars), expected)

    def test_new_events_count(self):
        config = small_config("training.epochs=1", preset="emorec")
        fitted = EmoRec(config=config).fit(LOG, progress=False)
        events = pd.DataFrame(
            {
                "user_id": "eve",
                "item_id": ITEMS[:3],
                "rating": [5, 1, 5],
                "timestamp": [10**9, 10**9 + 60, 10**9 + 120],
            }
        )
        found = fitted.score([("eve", ITEMS[7])], events)
        lists = fitted.recommend(["eve"], k=50, events=events)
        expected = float(lists["score"][lists["item"] == ITEMS[7]].iloc[0])
        assert found["score"][0] == pytest.approx(expected, rel=1e-5)
        with pytest.warns(UserWarning, match="of users without events, such as 'eve'"):
            assert fitted.score([("eve", ITEMS[7])], events, at=10**9 - 1)["score"].isna().all()

    def test_without_probabilities(self):
        config = small_config("training.epochs=1", preset="emorec-graph")
        recommender = EmoRec(config=config).fit(LOG, progress=False)
        found = recommender.score([(USERS[0], ITEMS[0])])
        assert found.columns.tolist() == ["user", "item", "score", "source"]

    def test_the_test_split_is_asked_for(self):
        recommender = EmoRec(config=CONFIG).fit(split_interactions(LOG, n=3), progress=False)
        pairs = [(USERS[0], recommender.split.log.items.ids[0])]
        with pytest.warns(UserWarning, match="these scores use the test split; to evaluate them"):
            recommender.score(pairs)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            recommender.score(pairs, before_test=True)

    def test_no_pairs(self, fitted):
        found = fitted.score([])
        assert len(found) == 0
        assert found.columns.tolist() == ["user", "item", "score", "liked", "source"]

    def test_an_array_of_pairs(self, fitted):
        found = fitted.score(np.array([[USERS[0], ITEMS[0]]], dtype=object))
        assert found["score"].notna().all()

    @pytest.mark.parametrize(
        ("pairs", "message"),
        [
            (pd.DataFrame({"u": [1], "item": [2]}), "the columns u, item; it needs user_id and it"),
            ([(1, 2), (1, 2, 3)], r"pair 2 must be \(user, item\), got \(1, 2, 3\)"),
            (["ab"], r"pair 1 must be \(user, item\), got 'ab'"),
            ("ab", "pairs must be a DataFrame or a list of .*, got str 'ab'"),
            ({"a": "b"}, "pairs must be a DataFrame or a list"),
            (7, "pairs must be a DataFrame or a list .*, got int 7"),
        ],
    )
    def test_what_are_no_pairs(self, fitted, pairs, message):
        with pytest.raises(ValueError, match=message):
            fitted.score(pairs)
