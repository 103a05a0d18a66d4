from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

from emorec import EmoRec
from emorec.data.synthetic import generate
from emorec.data.vocabulary import Vocabulary
from emorec.inference.filters import Filters
from tests.small import small_config

LOG = generate(num_users=40, num_items=50, num_topics=8, events_per_user=12).interactions
CONFIG = small_config("training.epochs=1")
USERS, ITEMS = LOG.users.ids, LOG.items.ids
CATALOGUE = Vocabulary(["a", "b", "c", "d"])


@pytest.fixture(scope="module")
def fitted():
    return EmoRec(config=CONFIG).fit(LOG, progress=False)


class TestFilters:
    def masks(self, users, **given):
        found = Filters(users, CATALOGUE, **given)(np.arange(len(users)))
        return ["".join(np.array(list("abcd"))[row]) for row in found.numpy()]

    def test_for_all_users(self):
        assert self.masks([1, 2], items=["c", "a", "a"]) == ["ac", "ac"]
        assert self.masks([1, 2], exclude=["d"]) == ["abc", "abc"]
        assert self.masks([1, 2], items=["c", "a"], exclude=["c"]) == ["a", "a"]
        assert self.masks([1, 2], exclude=[]) == ["abcd", "abcd"]

    def test_by_user(self):
        items = {2: ["b"], "1": ["a", "d"], 3: []}  # "1" finds 1, as everywhere
        assert self.masks([1, 2, 1, 3], items=items) == ["ad", "b", "ad", ""]
        assert self.masks([1, 2], exclude={2: ["b"]}) == ["abcd", "acd"]
        assert self.masks([1, 2], exclude={}) == ["abcd", "abcd"]
        assert self.masks([2, 1], items=iter("ab"), exclude={1: ["b"]}) == ["ab", "a"]

    def test_of_users_in_any_order(self):
        filters = Filters([7, 8, 9], CATALOGUE, exclude={7: ["a"], 9: ["b"]})
        assert filters(np.array([2, 1, 0])).tolist() == [
            [True, False, True, True],
            [True, True, True, True],
            [False, True, True, True],
        ]

    def test_of_a_catalogue_of_one_item(self):
        filters = Filters([7, 8], Vocabulary(["a"]), items={7: ["a"], 8: []})
        assert filters(np.array([1, 0])).tolist() == [[False], [True]]

    def test_unknown_items_are_told_once(self):
        with pytest.warns(UserWarning) as caught:
            found = self.masks([1, 2], items={1: ["a", "x"], 2: ["x", "y", "b"]})
        assert found == ["a", "b"]
        (warning,) = caught
        assert str(warning.message) == (
            "items: 2 item ids, such as 'x', are left out: unknown to the model"
        )

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"items": []}, "items is empty, so that no item may be listed; None allows all"),
            ({"items": ["x", "y"]}, "items: none of the 2 item ids, such as 'x', occurs in the"),
            ({"exclude": {1: ["x"]}}, "exclude: none of the 1 item id, such as 'x', occurs"),
            ({"items": "a"}, "items must be a list of item ids, or a mapping .* got str 'a'"),
            ({"items": {1: "a", 2: "b"}}, "items of user 1 must be a list .* got str 'a'"),
            ({"exclude": 7}, "exclude must be a list of item ids, .* got int 7"),
            ({"items": pd.DataFrame({"item": ["a"]})}, "got DataFrame"),
            ({"items": {1: ["a"]}}, "items has no entry for 1 user, such as 2; give each user"),
            ({"exclude": {1: ["a"], "1": ["b"]}}, "exclude: the users of the mapping: id 1 occurs"),
        ],
    )
    def test_what_is_no_filter(self, given, message):
        with pytest.raises(ValueError, match=message):
            self.masks([1, 2], **given)


class TestLists:
    def test_hold_candidates_alone_in_the_same_order(self, fitted):
        users = [*USERS[:3], "a stranger"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            whole = fitted.recommend(users, k=50)
            lists = fitted.recommend(users, k=5, items=ITEMS[::2], exclude=ITEMS[:10])
        allowed = set(ITEMS[::2]) - set(ITEMS[:10])
        for user in users:
            expected = whole[(whole["user"] == user) & whole["item"].isin(allowed)][:5]
            found = lists[lists["user"] == user]
            assert found["item"].tolist() == expected["item"].tolist()
            assert found["rank"].tolist() == list(range(1, len(found) + 1))
            np.testing.assert_array_equal(found["score"], expected["score"])

    def test_hold_candidates_of_their_user(self, fitted):
        items = {USERS[0]: ITEMS[:9], "a stranger": ITEMS[9:12], USERS[1]: []}
        with pytest.warns(UserWarning, match="no events of 1 of 3 users"):
            lists = fitted.recommend(list(items), k=50, items=items)
        by_user = lists.groupby("user")["item"].agg(set)
        seen = set(LOG.items.lookup(LOG.item[LOG.user == 0]))
        assert by_user[USERS[0]] == set(ITEMS[:9]) - seen
        assert by_user["a stranger"] == set(ITEMS[9:12])
        assert USERS[1] not in by_user  # never padded

    def test_leave_out_what_is_probably_disliked(self, fitted):
        users = [*USERS, "a stranger"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            whole = fitted.recommend(users, k=50)
            least = float(whole["liked"].median())
            lists = fitted.recommend(users, k=50, min_liked=least)
        expected = whole[whole["liked"] >= least]
        assert 0 < len(expected) < len(whole)
        assert set(expected["source"]) == {"model", "popular"}
        columns = ["user", "item", "score", "liked", "source"]
        pd.testing.assert_frame_equal(
            lists[columns], expected[columns].reset_index(drop=True), check_exact=True
        )

    def test_warnings_point_at_the_caller(self, fitted):
        with pytest.warns(UserWarning) as caught:
            fitted.recommend(["a stranger"], items=[ITEMS[0], "x"])
        assert [warning.filename for warning in caught] == [__file__] * 2

    @pytest.mark.parametrize("wrong", [-0.1, 1.5, "0.5", True, float("nan")])
    def test_the_least_probability_is_one(self, fitted, wrong):
        with pytest.raises(ValueError, match="min_liked must be a number from 0 to 1, got"):
            fitted.recommend(USERS[:1], min_liked=wrong)

    def test_a_model_without_probabilities(self):
        config = small_config("training.epochs=1", preset="diff-gat-thp-polarity")
        recommender = EmoRec(config=config).fit(LOG, progress=False)
        with pytest.raises(ValueError, match="min_liked is 0.5, but this model does not predict"):
            recommender.recommend(USERS[:1], min_liked=0.5)


class TestBlocks:
    @pytest.mark.parametrize("preset", [None, "emorec-graph"])
    def test_hold_what_the_whole_holds(self, preset):
        config = small_config("training.epochs=1", preset=preset)
        recommender = EmoRec(config=config).fit(LOG, progress=False)
        users = [USERS[3], "a stranger", *USERS[:4], "another", USERS[3]]
        options = {"items": {user: ITEMS[n:] for n, user in enumerate(dict.fromkeys(users))}}
        with pytest.warns(UserWarning, match="no events of 2 of 8 users") as caught:
            blocks = recommender.recommend_in_blocks(users, k=3, block=3, **options)
        assert len(caught) == 1  # at the call, and once
        blocks = list(blocks)
        assert [block["user"].nunique() for block in blocks] == [3, 3, 2]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            whole = recommender.recommend(users, k=3, **options)
        assert {block["score"].dtype for block in blocks} == {whole["score"].dtype}
        pd.testing.assert_frame_equal(pd.concat(blocks, ignore_index=True), whole, rtol=1e-4)

    def test_nobody(self, fitted):
        assert list(fitted.recommend_in_blocks([])) == []

    @pytest.mark.parametrize("block", [0, 2.5, None])
    def test_size(self, fitted, block):
        with pytest.raises(ValueError, match="block must be a whole number of at least 1, got"):
            fitted.recommend_in_blocks(USERS, block=block)
