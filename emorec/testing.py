"""Checks that any recommender should pass, EmoRec's own models and yours.

A recommender is an object with two methods:

    fit(events)           learns from a DataFrame with the columns user_id, item_id, rating (stars
                          from 1 to 5) and timestamp, and returns the fitted recommender
    recommend(users, k)   returns a DataFrame with the columns user and item, and any others, such
                          as score: the users in the order given, each user's items best first;
                          fewer than k where there are no more unseen ones

With pytest, each check is a test:

    @pytest.mark.parametrize("check", all_checks(), ids=str)
    def test_my_recommender(check):
        check(lambda seed: MyRecommender(seed=seed))

`check_recommender` runs all of them at once. A check of what a recommender does not have, such as
scores or `save`, raises `unittest.SkipTest`, which pytest reports as skipped.

`ScorerRecommender` makes a recommender of a scorer, such as those of `emorec.baselines`.
"""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from unittest import SkipTest

import numpy as np
import pandas as pd
import torch

from emorec.data.interactions import Interactions
from emorec.data.readers import read_interactions
from emorec.data.synthetic import generate
from emorec.data.writing import frames_of
from emorec.threads import threads

__all__ = ["Check", "Make", "ScorerRecommender", "all_checks", "check_recommender"]

Make = Callable[[int], Any]
"""Makes a recommender that is not fitted yet, of a seed."""

_STARS = {
    "explicit_positive": 5.0,
    "implicit_positive": 4.0,
    "implicit_negative": 3.0,
    "explicit_negative": 1.0,
}
_ODD = ("'; drop table users; --", "é ☃", "NA", "007", " spaces ", "a,b\nc", "<b>")
_CHECKS: list[Check] = []


@dataclass(frozen=True)
class Check:
    """A check of a recommender.

    Attributes:
        name: What is checked.
        function: Checks it, and raises AssertionError where the recommender does not pass.
    """

    name: str
    function: Callable[[Make], None]

    def __call__(self, make: Make) -> None:
        """Checks a recommender.

        Raises:
            AssertionError: If it does not pass; says why.
            unittest.SkipTest: If it lacks what is checked; says what.
        """
        self.function(make)

    def __str__(self) -> str:
        return self.name


class _Scorer(Protocol):
    def fit(self, interactions: Interactions) -> Any: ...

    def __call__(self, users: torch.Tensor) -> torch.Tensor: ...


class ScorerRecommender:
    """A recommender that ranks the items that a user has not seen by the scores of a scorer.

    Unknown users get no list.

    Args:
        scorer: Has ``fit(interactions)``, and is called with user indices, int64 ``[B]``, for the
            scores of all items, ``[B, num_items]``.
    """

    def __init__(self, scorer: _Scorer) -> None:
        self.scorer = scorer

    def fit(self, events: pd.DataFrame) -> ScorerRecommender:
        """Fits the scorer."""
        self.log, _ = read_interactions(events, rules="ratings")
        self.scorer.fit(self.log)
        return self

    def recommend(self, users: Iterable[Any], k: int = 10) -> pd.DataFrame:
        """Lists for users, with the columns user, item and score."""
        frames = []
        for user in users:
            (index,) = self.log.users.indices([user])
            if index >= 0:
                scores = self.scorer(torch.tensor([index]))[0].numpy().astype(np.float64)
                scores[self.log.item[self.log.user == index]] = -np.inf
                best = np.argsort(-scores, kind="stable")[:k]
                best = best[scores[best] > -np.inf]
                items = self.log.items.lookup(best)
                frames.append(pd.DataFrame({"user": user, "item": items, "score": scores[best]}))
        empty = pd.DataFrame({"user": [], "item": [], "score": []})
        return pd.concat(frames, ignore_index=True) if frames else empty


def all_checks() -> tuple[Check, ...]:
    """All checks; those of what a recommender does not have are skipped by pytest."""
    return tuple(_CHECKS)


def check_recommender(make: Make, skip: Iterable[str] = ()) -> None:
    """Runs all checks on a recommender.

    Args:
        make: Makes a recommender of a seed, not fitted yet.
        skip: Names of checks that are left out.

    Raises:
        AssertionError: If it does not pass all; a line per check that it fails.
        ValueError: If there is no check of a name to skip.
    """
    left_out = set(skip)
    if unknown := left_out - {check.name for check in _CHECKS}:
        raise ValueError(f"there is no check {min(unknown)!r}; see all_checks()")
    failures = []
    for check in _CHECKS:
        if check.name in left_out:
            continue
        try:
            check(make)
        except SkipTest:
            continue
        except Exception as error:  # whatever a recommender does wrong is told
            failures.append(f"{check.name}: {type(error).__name__}: {error}")
    assert not failures, "\n".join([f"{len(failures)} of {len(_CHECKS)} checks fail:", *failures])


def _check(function: Callable[[Make], None]) -> Callable[[Make], None]:
    name = function.__name__.removeprefix("_").replace("_", " ")
    _CHECKS.append(Check(name, function))
    return function


def _events() -> pd.DataFrame:
    """A small log of users with a taste, with ids of text."""
    return _as_events(
        generate(num_users=40, num_items=60, num_topics=8, events_per_user=12, seed=1)
    )


def _as_events(log: Any) -> pd.DataFrame:
    events = pd.concat(list(frames_of(log.interactions)), ignore_index=True)
    return events.assign(rating=events.pop("feedback").map(_STARS))


def _fitted(make: Make, events: pd.DataFrame, seed: int = 0) -> Any:
    recommender = make(seed)
    found = recommender.fit(events)
    assert found is not None, "fit returns None; it must return the fitted recommender"
    return found


def _users(events: pd.DataFrame, number: int = 12) -> list[Any]:
    return events["user_id"].drop_duplicates().head(number).tolist()


def _lists(found: pd.DataFrame) -> dict[Any, list[Any]]:
    return {user: rows["item"].tolist() for user, rows in found.groupby("user", sort=False)}


@_check
def _lists_are_of_known_unseen_and_distinct_items(make: Make) -> None:
    events = _events()
    users = _users(events)[::-1]
    found = _fitted(make, events).recommend(users, 5)
    assert {"user", "item"} <= set(found.columns), f"columns are {found.columns.tolist()}"
    lists = _lists(found)
    assert list(lists) == users, "the users are not those asked for, in the order given"
    known = set(events["item_id"])
    for user, items in lists.items():
        seen = set(events["item_id"][events["user_id"] == user])
        assert len(items) == 5, f"{user!r} gets {len(items)} items, not 5"
        assert len(set(items)) == 5, f"{user!r} gets an item twice: {items}"
        assert set(items) <= known, f"{user!r} gets items that are not in the log: {items}"
        assert not set(items) & seen, f"{user!r} gets items of the own history: {items}"


@_check
def _scores_are_finite_and_fall(make: Make) -> None:
    events = _events()
    found = _fitted(make, events).recommend(_users(events), 10)
    if "score" not in found:
        raise SkipTest("its lists have no column score")
    assert np.isfinite(found["score"].astype(float)).all(), "some scores are not finite"
    for user, rows in found.groupby("user"):
        assert (rows["score"].diff().dropna() <= 0).all(), f"scores of {user!r} rise down the list"


@_check
def _ids_come_back_as_they_were_given(make: Make) -> None:
    events = _events()
    codes, _ = pd.factorize(events["item_id"])
    names = [*_ODD, *(f"item {number}" for number in range(codes.max() + 1))]
    for items in (codes + 10**12, np.array(names, dtype=object)[codes]):
        changed = events.assign(item_id=items)
        found = _fitted(make, changed).recommend(_users(changed, 40), 40)["item"].tolist()
        strange = [item for item in found if item not in set(changed["item_id"])]
        assert not strange, f"{strange[0]!r} is not an id that was given"
        assert {type(item) for item in found} == {type(pd.Series(items).tolist()[0])}, (
            f"ids {items[0]!r} come back as {found[0]!r}"
        )


@_check
def _unknown_users_do_no_harm(make: Make) -> None:
    events = _events()
    recommender, users = _fitted(make, events), _users(events, 3)
    expected = _lists(recommender.recommend(users, 5))
    found = _lists(recommender.recommend([users[0], "nobody", *users[1:]], 5))
    assert {user: found.get(user) for user in users} == expected, (
        "an unknown user changes the lists of others"
    )
    items = found.get("nobody", [])
    assert set(items) <= set(events["item_id"]), f"an unknown user gets {items}"


@_check
def _one_user_and_one_item_fit_or_are_refused(make: Make) -> None:
    events = _events()
    few = (
        events[events["user_id"] == events["user_id"].iloc[0]],
        events[events["item_id"] == events["item_id"].iloc[0]],
        events.head(1),
    )
    for log in few:
        try:
            _fitted(make, log).recommend(_users(log), 5)
        except ValueError as error:
            assert str(error), "the error of a log that is too small says nothing"


@_check
def _k_may_exceed_the_catalogue(make: Make) -> None:
    events = _events()
    users = _users(events, 3)
    lists = _lists(_fitted(make, events).recommend(users, 10_000))
    for user in users:
        unseen = set(events["item_id"]) - set(events["item_id"][events["user_id"] == user])
        found = lists[user]
        assert len(found) == len(set(found)) and set(found) <= unseen, (
            f"with k beyond the catalogue {user!r} gets {len(found)} items, {len(set(found))} of "
            f"them distinct, {len(set(found) - unseen)} of these not among the {len(unseen)} unseen"
        )


@_check
def _equal_seeds_give_equal_lists(make: Make) -> None:
    events = _events()
    users = _users(events)
    one, two = (_lists(_fitted(make, events, seed=3).recommend(users, 10)) for _ in range(2))
    assert one == two, "two trainings of one seed give different lists"


@_check
def _lists_do_not_depend_on_who_else_asks(make: Make) -> None:
    events = _events()
    recommender, users = _fitted(make, events), _users(events)
    together = _lists(recommender.recommend(users, 10))
    for user in users[:4]:
        alone = _lists(recommender.recommend([user], 10))
        assert alone[user] == together[user], f"{user!r} gets another list alone than with others"


@_check
def _threads_do_not_matter(make: Make) -> None:
    events = _events()
    recommender, users = _fitted(make, events), _users(events)
    lists = []
    for number in (1, 2):
        with threads(number):
            lists.append(_lists(recommender.recommend(users, 10)))
    assert lists[0] == lists[1], "lists depend on the number of threads"


@_check
def _the_frame_may_have_any_index_and_more_columns(make: Make) -> None:
    events = _events()
    users = _users(events)
    expected = _lists(_fitted(make, events).recommend(users, 10))
    other = events.assign(note="x").set_index(pd.Index(range(7, 7 + len(events))).map(str))
    other = other[other.columns[::-1]]
    before = other.copy()
    found = _lists(_fitted(make, other).recommend(users, 10))
    assert found == expected, "the frame's index, or the order of its columns, changes the lists"
    pd.testing.assert_frame_equal(other, before, obj="fit changes the frame it is given: events")


@_check
def _events_of_equal_times_keep_the_order_of_rows(make: Make) -> None:
    events = _events().sort_values(["user_id", "timestamp"], ignore_index=True)
    users = _users(events)
    ordered = events.assign(timestamp=10**9 + np.arange(len(events)) * 86_400)
    lists = []
    for log in (ordered, ordered.assign(timestamp=10**9)):
        try:
            lists.append(_lists(_fitted(make, log).recommend(users, 10)))
        except ValueError as error:
            assert str(error), "the error about equal times says nothing"
    assert all(list(each) == users for each in lists), "equal times lose users"


@_check
def _later_events_do_not_leak(make: Make) -> None:
    events = _events()
    recommender, users = _fitted(make, events), _users(events)
    parameters = inspect.signature(recommender.recommend).parameters
    if not {"events", "at"} <= set(parameters):
        raise SkipTest("recommend takes no events and at")
    now = int(events["timestamp"].max()) + 1_000
    later = events.sample(30, random_state=0).assign(
        timestamp=now + 1_000 + np.arange(30), rating=1.0
    )
    lists = [
        _lists(recommender.recommend(users, 10, events=each, at=now))
        for each in (later, later.assign(timestamp=later["timestamp"][::-1].to_numpy(), rating=5.0))
    ]
    assert lists[0] == lists[1], "events after the time of the request change the lists"


@_check
def _dislikes_act(make: Make) -> None:
    """Those who dislike what others like get less of its kind."""
    log = generate(num_users=120, num_items=80, num_topics=8, events_per_user=16, seed=2)
    events = _as_events(log)
    names = pd.Index(log.interactions.items.ids)
    topics = pd.Series(names.str.partition("-").get_level_values(0), names)  # "t07-0003" is of 07
    counts = topics[events["item_id"]].value_counts()
    one, other = counts.index[:2]
    start = int(events["timestamp"].max())

    def history(user: str, rating: float) -> pd.DataFrame:
        liked, judged = (topics.index[topics == each][:4] for each in (one, other))
        items = [*liked, *judged]
        return pd.DataFrame(
            {
                "user_id": user,
                "item_id": items,
                "rating": [5.0] * len(liked) + [rating] * len(judged),
                "timestamp": start + 60 * np.arange(len(items)),
            }
        )

    fans, haters = [f"fan {n}" for n in range(5)], [f"hater {n}" for n in range(5)]
    more = [history(user, 5.0) for user in fans] + [history(user, 1.0) for user in haters]
    whole = pd.concat([events, *more], ignore_index=True)
    found = _fitted(make, whole).recommend([*fans, *haters], 10)
    is_other = found.assign(hit=topics[found["item"]].to_numpy() == other)
    shares = [is_other["hit"][is_other["user"].isin(some)].mean() for some in (fans, haters)]
    assert shares[1] < shares[0], (
        f"who dislikes items of a kind gets as many of it as who likes them: {shares[1]:.0%} of "
        f"their lists, and {shares[0]:.0%}"
    )


@_check
def _save_and_load_keep_the_lists(make: Make) -> None:
    events = _events()
    recommender, users = _fitted(make, events), _users(events)
    if not (hasattr(recommender, "save") and hasattr(type(recommender), "load")):
        raise SkipTest("it has no save and load")
    expected = _lists(recommender.recommend(users, 10))
    with tempfile.TemporaryDirectory() as folder:
        recommender.save(Path(folder) / "saved")
        found = type(recommender).load(Path(folder) / "saved")
        assert _lists(found.recommend(users, 10)) == expected, "a saved recommender lists others"
