"""The checks of recommenders: ours pass, and broken ones do not."""

from __future__ import annotations

from unittest import SkipTest

import numpy as np
import pandas as pd
import pytest

from emorec import EmoRec
from emorec.baselines import EASE, ItemKNN, ItemPrior, MostPop, Random, RidgeKNN
from emorec.testing import ScorerRecommender, all_checks, check_recommender
from tests.small import small_config

# What of the checks is not for a model that ranks alike for all users or by what they have seen.
BLIND = {
    "MostPop": {"dislikes act"},
    "Random": {"dislikes act"},
    "ItemPrior": {"dislikes act"},
    "ItemKNN": {"dislikes act"},
    "EASE": {"dislikes act"},
    "RidgeKNN": {"dislikes act"},
}
# What ScorerRecommender does not have.
LACKS = {
    "later events do not leak": "recommend takes no events and at",
    "save and load keep the lists": "it has no save and load",
}
BASELINES = {
    "MostPop": lambda seed: MostPop(),
    "Random": lambda seed: Random(seed),
    "ItemPrior": lambda seed: ItemPrior(),
    "ItemKNN": lambda seed: ItemKNN(20),
    "ItemKNN of likes": lambda seed: ItemKNN(20, query_likes=True),
    "EASE": lambda seed: EASE(10.0),
    "EASE of likes": lambda seed: EASE(10.0, query_likes=True, train_on_likes=True),
    "RidgeKNN": lambda seed: RidgeKNN(20, 10.0),
}


@pytest.mark.parametrize("check", all_checks(), ids=str)
@pytest.mark.parametrize("preset", ["emorec", "emorec-graph"])
@pytest.mark.filterwarnings("ignore")
def test_emorec(check, preset):
    def make(seed):
        settings = ("training.epochs=3", f"training.seed={seed}", "split.n=2")
        return EmoRec(config=small_config(*settings, preset=preset))

    check(make)


@pytest.mark.parametrize("check", all_checks(), ids=str)
@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.filterwarnings("ignore")
def test_baselines(check, name):
    if check.name in LACKS:
        with pytest.raises(SkipTest, match=LACKS[check.name]):
            check(lambda seed: ScorerRecommender(BASELINES[name](seed)))
    elif check.name in BLIND.get(name, ()):
        with pytest.raises(AssertionError, match="gets as many of it"):
            check(lambda seed: ScorerRecommender(BASELINES[name](seed)))
    else:
        check(lambda seed: ScorerRecommender(BASELINES[name](seed)))


class Broken(ScorerRecommender):
    """A recommender of popular items with one fault."""

    def __init__(self, fault):
        super().__init__(MostPop())
        self.fault = fault

    def fit(self, events):
        if self.fault == "changes the frame":
            events["note"] = "y"
        if self.fault == "returns None":
            return None
        self.calls = 0
        return super().fit(events)

    def recommend(self, users, k=10):
        users = list(users)
        self.calls += 1
        if self.fault == "fails":
            raise KeyError("nobody")
        if self.fault == "repeats items at large k" and k > 100:
            found = super().recommend(users, k)
            return pd.concat([found, found])
        found = super().recommend(users, k)
        if self.fault == "no scores":
            return found.drop(columns="score")
        if self.fault == "ids as text":
            found["item"] = found["item"].astype(str)
        elif self.fault == "drops users":
            found = found[found["user"] != users[0]]
        elif self.fault == "shares lists":
            found["item"] = np.roll(found["item"], len(users))
        elif self.fault == "NaN scores":
            found.loc[found.index[:1], "score"] = np.nan
        elif self.fault == "worst first":
            found = found.iloc[::-1].sort_values("user", kind="stable")
        elif self.fault == "forgets the seed":
            found["item"] = np.random.default_rng().permutation(found["item"].to_numpy())
        return found


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        ("changes the frame", "the frame may have any index and more columns"),
        ("returns None", "lists are of known unseen and distinct items"),
        ("fails", "unknown users do no harm"),
        ("repeats items at large k", "k may exceed the catalogue"),
        ("ids as text", "ids come back as they were given"),
        ("drops users", "lists are of known unseen and distinct items"),
        ("shares lists", "lists do not depend on who else asks"),
        ("NaN scores", "scores are finite and fall"),
        ("worst first", "scores are finite and fall"),
        ("forgets the seed", "equal seeds give equal lists"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_fault_is_told(fault, check):
    with pytest.raises(AssertionError, match=rf"checks fail:\n(.*\n)*{check}: "):
        check_recommender(lambda seed: Broken(fault))


def test_scores_that_are_missing_are_not_checked():
    (check,) = (each for each in all_checks() if each.name == "scores are finite and fall")
    with pytest.raises(SkipTest, match="no column score"):
        check(lambda seed: Broken("no scores"))


def test_checks_can_be_left_out():
    check_recommender(lambda seed: ScorerRecommender(MostPop()), skip=["dislikes act"])
    with pytest.raises(ValueError, match="there is no check 'dislike'"):
        check_recommender(lambda seed: ScorerRecommender(MostPop()), skip=["dislike"])


@pytest.mark.filterwarnings("ignore")
def test_equal_times_may_be_refused_by_an_error_that_says_something():
    class Refuses(ScorerRecommender):
        def fit(self, events, *rest):
            if events["timestamp"].nunique() == 1:
                raise ValueError(said)
            return super().fit(events, *rest)

    (check,) = (each for each in all_checks() if "equal times" in each.name)
    said = "all times are equal"
    check(lambda seed: Refuses(MostPop()))
    said = ""
    with pytest.raises(AssertionError, match="the error about equal times says nothing"):
        check(lambda seed: Refuses(MostPop()))
