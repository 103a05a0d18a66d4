from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from emorec.data.feedback import Feedback
from emorec.data.interactions import (
    _MULTIPLIER,
    Interactions,
    contains,
    is_repeated,
    k_core,
    occurs,
)


def small() -> Interactions:
    return Interactions.from_columns(
        user=["u", "v", "u", "w"],
        item=[7, 7, 8, 9],
        feedback=[0, 3, 1, 2],
        time=[5, 5, 4, 6],
    )


def test_columns_get_their_types_and_indices() -> None:
    log = small()
    assert log.user.tolist() == [0, 1, 0, 2] and log.users.ids == ["u", "v", "w"]
    assert log.item.tolist() == [0, 0, 1, 2] and log.items.ids == [7, 8, 9]
    assert [c.dtype for c in (log.user, log.item, log.feedback, log.time)] == [
        np.int64,
        np.int64,
        np.int8,
        np.int64,
    ]
    assert (len(log), log.num_users, log.num_items) == (4, 3, 3)
    assert log.is_positive.tolist() == [True, False, True, False]
    assert log.feedback_counts() == {kind: 1 for kind in Feedback}
    assert repr(log) == "Interactions(4 rows, 3 users, 3 items)"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"feedback": [256, 0]}, "row 0: feedback is 256, must be in 0 .. 3"),
        ({"feedback": [0, -1]}, "row 1: feedback is -1"),
        ({"time": [1.5, 2]}, "row 0: time is 1.5, must be a whole number"),
        ({"time": [1, float("nan")]}, "row 1: time is nan, must be a whole number"),
        ({"time": ["1", "2"]}, "column 'time' holds <U1, must hold whole numbers"),
        ({"time": [[1, 2]]}, r"column 'time' has shape \(1, 2\)"),
        ({"time": [1]}, "column 'time' has 1 rows, user has 2"),
        ({"time_unit": "none"}, "time must be 0 in every row, as time_unit is 'none'"),
        ({"time_unit": "h"}, "time_unit must be one of 'none', 's', .*, got 'h'"),
    ],
)
def test_wrong_columns_are_refused(change: dict[str, Any], message: str) -> None:
    columns: dict[str, Any] = {
        "user": ["a", "b"],
        "item": [1, 2],
        "feedback": [0, 1],
        "time": [5, 6],
    }
    with pytest.raises(ValueError, match=message):
        Interactions.from_columns(**(columns | change))


def test_an_index_outside_its_vocabulary_is_refused() -> None:
    log = small()
    with pytest.raises(ValueError, match="row 1: user is 3, must be in 0 .. 2"):
        Interactions(np.array([0, 3]), log.item[:2], [0, 0], [1, 2], log.users, log.items)


def test_select_keeps_vocabularies_and_reindexed_shrinks_them() -> None:
    part = small().select(np.array([3, 1]))
    assert part.user.tolist() == [2, 1] and part.num_users == 3
    tight = part.reindexed()
    assert tight.users.ids == ["v", "w"] and tight.items.ids == [7, 9]
    assert tight.user.tolist() == [1, 0] and tight.item.tolist() == [1, 0]
    assert tight.time.tolist() == [6, 5] and tight.feedback.tolist() == [2, 3]


def test_chronological_keeps_the_order_of_the_log_at_ties() -> None:
    log = Interactions.from_columns(
        user=["a", "b", "a", "a", "b"], item=range(5), feedback=[0] * 5, time=[2, 1, 1, 2, 1]
    )
    assert log.chronological().tolist() == [2, 0, 3, 1, 4]


def test_an_empty_log_is_legal() -> None:
    log = Interactions.from_columns([], [], [], [])
    assert (len(log), log.num_users) == (0, 0)
    assert log.chronological().tolist() == []


def test_k_core_takes_several_rounds() -> None:
    # Item 3 has one row; without it user c has one row; without that item 2 has one row ...
    log = Interactions.from_columns(
        user=["a", "a", "b", "b", "c", "c", "a"],
        item=[1, 0, 1, 0, 2, 3, 2],
        feedback=[0] * 7,
        time=range(7),
    )
    core = k_core(log, user_k=2, item_k=2)
    assert core.users.ids == ["a", "b"] and core.items.ids == [1, 0]
    assert core.time.tolist() == [0, 1, 2, 3]


def test_k_core_counts_users_and_items_apart() -> None:
    log = Interactions.from_columns(["a", "a", "b"], [1, 2, 1], [0, 0, 0], [0, 1, 2])
    assert k_core(log).time.tolist() == [0, 1, 2]
    assert k_core(log, user_k=2).time.tolist() == [0, 1]
    assert k_core(log, item_k=2).time.tolist() == [0, 2]


def test_k_core_without_survivors_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least 4 per user and 1 per item"):
        k_core(small(), user_k=4)


def test_rows_of_users() -> None:
    log = Interactions.from_columns([7, 9, 7, 4], ["a", "b", "c", "a"], [0] * 4, range(4))
    some = log.of_users(np.array([2, 0]))
    assert some.users is log.users
    assert some.time.tolist() == [0, 2, 3]
    assert len(log.of_users(np.zeros(0, dtype=np.int64))) == 0


def test_without_users_neither_their_rows_nor_their_ids_are_left() -> None:
    log = Interactions.from_columns(
        ["a", "b", "c", "b"], ["x", "y", "z", "x"], [0, 1, 2, 3], [1, 2, 3, 4]
    )
    left = log.without_users(["b", "nobody"])
    assert left.users.ids == ["a", "c"] and left.items.ids == log.items.ids
    assert left.user.tolist() == [0, 1] and left.item.tolist() == [0, 2]
    assert left.feedback.tolist() == [0, 2] and left.time.tolist() == [1, 3]
    assert len(log.without_users([])) == len(log)


class TestFollowedBy:
    LOG = Interactions.from_columns([7, 7, 4], ["a", "b", "a"], [0, 3, 1], [10, 20, 30])

    def followed_by(self, *rows: tuple[Any, Any, int, int], **options: Any) -> Interactions:
        later = Interactions.from_columns(*zip(*rows, strict=True))
        return self.LOG.followed_by(later, **options)

    def test_ids_are_matched_and_new_users_come_last(self) -> None:
        both = self.followed_by((9, "b", 2, 5), (4, "b", 0, 40), (8, "a", 1, 6), (9, "a", 3, 7))
        assert both.users.ids[:2] == self.LOG.users.ids
        assert both.users.lookup(both.user) == [7, 7, 4, 9, 4, 8, 9]
        assert both.items == self.LOG.items
        assert both.items.lookup(both.item) == ["a", "b", "a", "b", "b", "a", "a"]
        assert both.feedback.tolist() == [0, 3, 1, 2, 0, 1, 3]
        assert both.time.tolist() == [10, 20, 30, 5, 40, 6, 7]

    def test_ids_match_over_types(self) -> None:
        both = self.followed_by(("7", "b", 0, 40), ("eve", "b", 0, 50))
        assert both.user.tolist() == [0, 0, 1, 0, 2]
        assert both.users.ids == [7, 4, "eve"]

    def test_unknown_items_are_left_out_and_their_users_with_them(self) -> None:
        both = self.followed_by((9, "z", 0, 40), (4, "z", 0, 40), (4, "b", 0, 50))
        assert both.users == self.LOG.users
        assert both.time.tolist() == [10, 20, 30, 50]

    def test_new_items_come_last_on_request(self) -> None:
        both = self.followed_by((9, "z", 0, 40), (4, "y", 0, 40), (4, "b", 0, 50), new_items=True)
        assert both.items.ids == ["a", "b", "z", "y"]
        assert both.items.lookup(both.item) == ["a", "b", "a", "z", "y", "b"]
        assert both.users.lookup(both.user) == [7, 7, 4, 9, 4, 4]

    def test_unknown_users_are_left_out_on_request(self) -> None:
        both = self.followed_by((9, "a", 0, 40), (4, "b", 0, 50), new_users=False)
        assert both.users == self.LOG.users
        assert both.time.tolist() == [10, 20, 30, 50]

    def test_rows_that_are_there_already_do_not_come_again(self) -> None:
        both = self.followed_by((7, "b", 3, 20), (7, "b", 2, 20), (7, "b", 2, 20), (7, "b", 3, 21))
        assert both.time.tolist() == [10, 20, 30, 20, 21]
        twice = self.LOG.select(np.array([0, 0, 1]))
        assert twice.followed_by(self.LOG).time.tolist() == [10, 10, 20, 30]

    @pytest.mark.parametrize(
        ("own", "other", "unit", "times"),
        [
            ("s", "s", "s", [10, 20, 30, 1_700_000_000_999]),
            ("ms", "ms", "ms", [10, 20, 30, 1_700_000_000_999]),
            ("s", "ms", "ms", [10_000, 20_000, 30_000, 1_700_000_000_999]),
            ("ms", "s", "ms", [10, 20, 30, 1_700_000_000_999_000]),
            ("s", "us", "us", [10**7, 2 * 10**7, 3 * 10**7, 1_700_000_000_999]),
            ("ns", "ms", "ns", [10, 20, 30, 1_700_000_000_999_000_000]),
            ("none", "ms", "none", [0, 0, 0, 0]),
        ],
    )
    def test_times_take_the_finer_unit(
        self, own: Any, other: Any, unit: str, times: list[int]
    ) -> None:
        log = replace(self.LOG, time=self.LOG.time * (own != "none"), time_unit=own)
        later = Interactions.from_columns([7], ["b"], [0], [1_700_000_000_999], time_unit=other)
        both = log.followed_by(later)
        assert both.time_unit == unit
        assert both.time.tolist() == times

    def test_times_that_the_finer_unit_cannot_hold(self) -> None:
        log = replace(self.LOG, time=self.LOG.time * 10**10)
        later = Interactions.from_columns([7], ["b"], [0], [5], time_unit="ns")
        with pytest.raises(ValueError, match="time 300000000000 s is too late to be counted in ns"):
            log.followed_by(later)

    def test_rows_follow_a_log_without_times_oldest_first(self) -> None:
        log = replace(self.LOG, time=np.zeros(3), time_unit="none")
        later = Interactions.from_columns([7, 7, 9], ["b", "a", "b"], [0, 1, 2], [50, 40, 45])
        assert log.followed_by(later).feedback.tolist() == [0, 3, 1, 1, 2, 0]
        with pytest.raises(ValueError, match="the events have no times, but the log has"):
            later.followed_by(log)

    def test_nothing_follows(self) -> None:
        both = self.LOG.followed_by(self.LOG.select(np.zeros(0, dtype=np.int64)))
        assert both.user.tolist() == self.LOG.user.tolist()
        assert both.users == self.LOG.users


def test_repeated_rows_are_those_of_equal_columns() -> None:
    rng = np.random.default_rng(0)
    for values in (2, 5, 50):
        columns = [rng.integers(0, values, 300) for _ in range(3)]
        seen: set[tuple[int, ...]] = set()
        expected = []
        for row in zip(*(column.tolist() for column in columns), strict=True):
            expected.append(row in seen)
            seen.add(row)
        assert is_repeated(*columns).tolist() == expected


def test_rows_that_are_mixed_to_one_number_are_not_repeats() -> None:
    # mixed is multiplier * first + second, which the second row reaches without the first column.
    first, second = np.array([1, 0, 1]), np.array([0, int(_MULTIPLIER), 0])
    assert is_repeated(first, second).tolist() == [False, False, True]
    assert is_repeated(first[:0], second[:0]).tolist() == []


def test_values_in_a_sorted_array() -> None:
    ordered = np.array([2, 2, 7])
    assert contains(ordered, np.array([7, 1, 2, 8])).tolist() == [True, False, True, False]
    assert contains(ordered[:0], np.array([7])).tolist() == [False]
    assert occurs(ordered, 9).tolist() == [place in (2, 7) for place in range(9)]


def test_chronological_is_the_stable_order_by_user_and_time() -> None:
    rng = np.random.default_rng(1)
    user, time = rng.integers(0, 7, 500), rng.integers(0, 20, 500)
    log = Interactions.from_columns(user, user, np.zeros(500, np.int64), time)
    assert log.chronological().tolist() == np.lexsort((log.time, log.user)).tolist()


def test_chronological_of_more_rows_and_users_than_one_number_tells_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Interactions, "num_users", 2**61)
    assert small().chronological().tolist() == [2, 0, 1, 3]
