from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from emorec.data.datasets import load_dataset
from emorec.data.feedback import Feedback
from emorec.data.interactions import Interactions
from emorec.data.splits import (
    Split,
    after_quantile,
    hold_out_validation,
    how_tests_differ,
    is_repeat,
    last_n_per_user,
    split_interactions,
    split_newest,
)
from emorec.data.vocabulary import Vocabulary
from emorec.settings import SplitConfig

EP, IP, IN, EN = Feedback


def make_log(rows: list[tuple[str, str, int]]) -> Interactions:
    user, item, time = zip(*rows, strict=True)
    feedback = [Feedback(row % 4) for row in range(len(rows))]
    return Interactions.from_columns(user, item, feedback, time)


# Ann has 5 rows, Bob 3, Cid 2; the log is not in time order.
LOG = make_log(
    [
        ("ann", "a", 10),
        ("bob", "a", 40),
        ("ann", "c", 30),
        ("ann", "b", 20),
        ("bob", "b", 40),
        ("cid", "a", 5),
        ("ann", "d", 50),
        ("ann", "e", 60),
        ("bob", "c", 40),
        ("cid", "e", 90),
    ]
)


def external(part: Interactions) -> list[tuple[str, str, int]]:
    users, items = part.users.lookup(part.user), part.items.lookup(part.item)
    return list(zip(users, items, part.time.tolist(), strict=True))


def test_last_n_takes_the_end_of_users_with_more_than_n_rows() -> None:
    assert np.flatnonzero(last_n_per_user(LOG, 2)).tolist() == [4, 6, 7, 8]
    assert np.flatnonzero(last_n_per_user(LOG, 3)).tolist() == [2, 6, 7]
    assert np.flatnonzero(last_n_per_user(LOG, 1)).tolist() == [7, 8, 9]
    assert not last_n_per_user(LOG, 5).any()


def test_equal_times_keep_the_order_of_the_log() -> None:
    log = make_log([("ann", item, 7) for item in "abcd"])
    assert last_n_per_user(log, 2).tolist() == [False, False, True, True]
    assert last_n_per_user(log.select(np.array([3, 2, 1, 0])), 2).tolist() == [
        False,
        False,
        True,
        True,
    ]


def test_after_quantile_keeps_ties_at_the_cut_in_train() -> None:
    log = make_log([("ann", "a", time) for time in [1, 5, 5, 5, 9, 2, 8, 3, 4, 7]])
    # Sorted: 1 2 3 4 5 5 5 7 8 9; the median is 5, so all three fives stay.
    assert sorted(log.time[after_quantile(log, 0.5)].tolist()) == [7, 8, 9]
    assert log.time[after_quantile(log, 0.99)].tolist() == [9]


def test_after_quantile_is_exact_for_times_that_float64_cannot_hold() -> None:
    start = 2**60
    log = make_log([("ann", "a", start + step) for step in range(10)])
    assert after_quantile(log, 0.5).tolist() == [False] * 5 + [True] * 5


@pytest.mark.parametrize("quantile", [0.1, 0.25, 0.5, 0.9, 0.95])
def test_after_quantile_agrees_with_linear_interpolation(quantile: float) -> None:
    rng = np.random.default_rng(1)
    log = make_log([("ann", "a", int(time)) for time in rng.integers(0, 60, 101)])
    expected = log.time > np.quantile(log.time, quantile)
    assert np.array_equal(after_quantile(log, quantile), expected)


def test_leave_last_out_parts_and_vocabularies() -> None:
    split = split_interactions(LOG, "leave_last_out", n=1)
    # Test: ann e, bob c, cid e. e occurs only in the test split, so two of the three rows drop.
    assert external(split.test) == [("bob", "c", 40)]
    assert split.dropped == 2
    assert external(split.valid) == [("bob", "b", 40), ("ann", "d", 50)]
    assert external(split.train) == [
        ("ann", "a", 10),
        ("bob", "a", 40),
        ("ann", "c", 30),
        ("ann", "b", 20),
        ("cid", "a", 5),
    ]
    assert split.train.items.ids == ["a", "c", "b", "d"]
    assert split.train.users == split.valid.users == split.test.users
    assert split.train.items == split.valid.items == split.test.items


def test_feedback_travels_with_its_row() -> None:
    split = split_interactions(LOG, "leave_last_out", n=1)
    assert split.test.feedback.tolist() == [EP]  # row 8
    assert split.valid.feedback.tolist() == [EP, IN]  # rows 4 and 6


def test_history_is_all_rows_before_the_test_part() -> None:
    split = split_interactions(LOG, "leave_last_out", n=1)
    assert sorted(external(split.history)) == sorted(external(LOG.select(~last_n_per_user(LOG, 1))))


def test_the_log_is_all_rows_but_cold_ones() -> None:
    split = split_interactions(LOG, "leave_last_out", n=1)
    cold = {("ann", "e", 60), ("cid", "e", 90)}
    assert set(external(split.log)) == set(external(LOG)) - cold


def test_validation_alone_knows_whom_it_has_seen() -> None:
    kept = LOG.select(LOG.item != LOG.items.ids.index("b"))
    split = hold_out_validation(kept, n=1)
    assert sorted(external(split.log)) == sorted(external(kept))
    assert split.train.items.ids == ["a", "c", "d", "e"]
    assert len(split.test) == split.dropped == 0


def test_history_keeps_each_users_order_through_ties() -> None:
    log = make_log([("ann", item, 7) for item in "abcd"] + [("bob", "d", 1)])
    history = split_interactions(log, "leave_last_out", n=1).history
    assert [item for user, item, _ in external(history) if user == "ann"] == ["a", "b", "c"]


def test_a_cold_validation_row_is_history_but_no_target() -> None:
    split = split_interactions(LOG, "leave_last_out", n=1)
    assert external(split.valid_targets) == [("bob", "b", 40)]  # d is not in train
    assert split.report is not None
    assert split.report.valid_cold == 1


def test_time_split_drops_cold_users_and_items_from_test() -> None:
    rows = [("ann", "a", 1), ("bob", "b", 2), ("ann", "b", 3), ("bob", "a", 4)]
    late = [("cid", "a", 8), ("ann", "z", 8), ("bob", "a", 9), ("cid", "z", 9)]
    split = split_interactions(make_log(rows + late), "time", quantile=0.5)
    assert external(split.test) == [("bob", "a", 9)]
    assert split.dropped == 3
    assert external(split.train) == rows[:2]
    assert external(split.valid) == rows[2:]
    assert split.report is not None
    assert (split.report.cold_users, split.report.cold_items) == (1, 1)
    assert split.report.valid_cold == 0
    assert split.report.test_before_history == 0


def test_permuting_rows_of_different_times_changes_nothing() -> None:
    rng = np.random.default_rng(3)
    rows = [
        (f"u{user}", f"i{item}", int(time))
        for user, item, time in zip(
            rng.integers(0, 12, 300), rng.integers(0, 30, 300), rng.permutation(300), strict=True
        )
    ]
    log = make_log(rows)
    shuffled = log.select(rng.permutation(300))
    for method in ("leave_last_out", "time"):
        one, other = (split_interactions(part, method, n=5) for part in (log, shuffled))  # type: ignore[arg-type]
        for name in ("train", "valid", "test"):
            assert sorted(external(getattr(one, name))) == sorted(external(getattr(other, name)))
        assert one.dropped == other.dropped


def test_repeats_are_of_the_same_user_and_item() -> None:
    pairs = [(user, item) for user in range(4) for item in range(3)]
    log = Interactions.from_columns(*zip(*pairs, strict=True), [0] * 12, range(12))
    past = log.select(np.array([10, 2, 5, 3]))
    assert np.flatnonzero(is_repeat(log, past)).tolist() == [2, 3, 5, 10]


def test_report_of_leave_last_out() -> None:
    report = split_interactions(LOG, "leave_last_out", n=1).report
    assert report is not None
    assert report.parts["test"].users == 3
    assert report.parts["test"].rows == 3
    assert report.parts["test kept"].rows == 1
    assert report.parts["history"].rows == 7
    assert report.parts["train"].feedback == {EP: 1, IP: 2, IN: 1, EN: 1}  # rows 0 1 2 3 5
    # Bob's three events all happen at 40, so file order decided.
    assert (report.ties_at_cut, report.ties_share) == (1, pytest.approx(1 / 3))
    # The latest history event is ann's at 50; of the test events 40, 60 and 90, one is earlier.
    assert report.test_before_history == pytest.approx(1 / 3)
    assert (report.cold_users, report.cold_items, report.dropped) == (0, 1, 2)
    text = str(report)
    assert "leave-1-last-out" in text
    assert (
        "2 test rows are dropped, as nothing before the test split is of their user (0 users) or "
        "their item (1 items)"
    ) in text


def test_report_of_the_time_split_counts_rows_at_the_cut() -> None:
    log = make_log([("ann", "a", time) for time in [1, 5, 5, 5, 9, 2, 8, 3, 4, 7]])
    report = split_interactions(log, "time", quantile=0.5).report
    assert report is not None
    assert (report.ties_at_cut, report.ties_share) == (3, pytest.approx(0.3))
    assert (report.parameter, report.in_days) == (0.5, False)
    assert "3 rows (30.00%) are at the cut time" in str(report)


DAY = 86_400
# Ann and Bob each have events on two days and on the third, with the items of the day before.
DAYS = make_log(
    [
        (user, item, day * DAY + second)
        for user in ("ann", "bob")
        for item, day, second in [
            ("a", 0, 0),
            ("b", 0, 100),
            ("a", 1, 90),
            ("b", 1, DAY - 1),
            ("a", 2, 0),
            ("b", 2, 100),
        ]
    ]
)


def times(part: Interactions) -> list[tuple[int, int]]:
    """Day and second of a part's events, of one user."""
    return [divmod(time, DAY) for user, _, time in external(part) if user == "ann"]


class TestDays:
    def test_the_newest_day_is_held_out_from_its_first_second_on(self) -> None:
        split = split_interactions(DAYS, "time", days=1)
        # The newest event is at second 100 of day 2, so the test split begins at 100 of day 1.
        assert times(split.test) == [(1, DAY - 1), (2, 0), (2, 100)]
        # Of the rest, the newest is at 90 of day 1: validation begins at 90 of day 0.
        assert times(split.valid) == [(0, 100), (1, 90)]
        assert times(split.train) == [(0, 0)]
        shorter = split_interactions(DAYS, "time", days=100 / DAY)
        assert times(shorter.test) == [(2, 0), (2, 100)]
        assert times(shorter.valid) == [(1, DAY - 1)]

    def test_other_units_of_time(self) -> None:
        for unit, ticks in (("ms", 10**3), ("us", 10**6), ("ns", 10**9)):
            log = replace(DAYS, time=DAYS.time * ticks, time_unit=unit)
            split = split_interactions(log, "time", days=1)
            assert (len(split.train), len(split.valid), len(split.test)) == (2, 4, 6)

    def test_a_gap_is_in_no_part(self) -> None:
        rows = [("ann", "a", minute * 60) for minute in range(0, 101, 10)]
        split = split_interactions(make_log(rows), "time", days=20 / (24 * 60), gap=20)
        # Test from minute 80 on; 60 and 70 are its gap. Of the rest, up to 50, validation begins
        # at 30; 10 and 20 are its gap.
        assert [time // 60 for _, _, time in external(split.test)] == [80, 90, 100]
        assert [time // 60 for _, _, time in external(split.valid)] == [30, 40, 50]
        assert [time // 60 for _, _, time in external(split.train)] == [0]
        assert split.report is not None and split.report.left_out == 4
        assert "4 rows are left out in the gaps before the cuts" in str(split.report)

    def test_the_gap_begins_at_its_minute(self) -> None:
        log = make_log([("ann", "a", second) for second in (0, 59, 60, 119, 120, 180)])
        split = hold_out_validation(log, "time", days=60 / DAY, gap=1)
        assert split.valid.time.tolist() == [120, 180]
        assert split.train.time.tolist() == [0, 59]

    def test_the_split_of_yambda(self) -> None:
        """Train before 25,911,800, test from 25,913,600 on, of a log that ends at 26,000,000."""
        seconds = [25_911_795, 25_911_800, 25_913_595, 25_913_600, 26_000_000]
        rows = [("ann", "a", 5), ("ann", "a", 20_000_000)]
        log = make_log(rows + [("ann", "a", second) for second in seconds])
        split = split_interactions(log, "time", days=1, gap=30)
        assert split.test.time.tolist() == [25_913_600, 26_000_000]
        assert split.history.time.tolist() == [5, 20_000_000, 25_911_795]

    def test_users_and_items_of_a_gap_alone_are_cold(self) -> None:
        rows = [("ann", "a", 0), ("ann", "b", 3000), ("bob", "a", 5000), ("ann", "c", 5000)]
        late = [("ann", "a", 6000), ("bob", "a", 6000), ("ann", "c", 6000)]
        split = split_interactions(make_log(rows + late), "time", days=60 / DAY, gap=20)
        assert external(split.test) == [("ann", "a", 6000)]
        assert split.history.items.ids == ["a", "b"] and split.history.users.ids == ["ann"]
        assert split.dropped == 2

    def test_of_a_model_that_is_to_be_used(self) -> None:
        split = hold_out_validation(DAYS, "time", days=1)
        assert times(split.valid) == [(1, DAY - 1), (2, 0), (2, 100)]
        assert len(split.test) == 0 and len(split.log) == len(DAYS)

    def test_a_gap_before_a_quantile(self) -> None:
        log = make_log([("ann", "a", 60 * minute) for minute in range(10)])
        split = split_interactions(log, "time", quantile=0.7, gap=2)
        assert (split.test.time // 60).tolist() == [7, 8, 9]
        # 5 and 6 are the test split's gap; of 0 to 4, validation holds out 3 and 4 after 1 and 2.
        assert (split.history.time // 60).tolist() == [0, 3, 4]

    def test_report(self) -> None:
        report = split_interactions(DAYS, "time", days=0.5).report
        assert report is not None and (report.parameter, report.in_days) == (0.5, True)
        assert "time split: test is the newest 12 hours" in str(report)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "time", "days": -1.0}, "days must be at least 0 and finite, got -1"),
        ({"method": "time", "days": float("inf")}, "days must be at least 0 and finite, got inf"),
        ({"method": "time", "gap": float("nan")}, "gap must be at least 0 and finite, got nan"),
        ({"days": 1.0}, "days is 1, which needs method 'time'"),
        ({"gap": 30.0}, "gap is 30, which needs method 'time'"),
        ({"method": "time", "days": 3.0}, "none of 12 rows is before the held-out part of 3 days;"),
        (
            {"method": "time", "days": 1.0, "gap": 3000.0},
            "held-out part of 1 days and the gap of 3000 minutes; lower days .the setting split.d",
        ),
        ({"method": "time", "gap": 9999.0}, "part and the gap of 9999 minutes; lower gap"),
    ],
)
def test_bad_days_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split_interactions(DAYS, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n must be at least 1, got 0"),
        ({"n": 5}, "no user has more than n = 5 interactions, the longest has 5; lower n .the"),
        ({"method": "time", "quantile": 0.0}, "quantile must be between 0 and 1, .* got 0.0"),
        ({"method": "time", "quantile": 1.0}, "got 1.0"),
        ({"method": "time", "quantile": float("nan")}, "got nan"),
        ({"method": "anyhow"}, "'leave_last_out', 'time' or 'random', got 'anyhow'"),
    ],
)
def test_bad_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split_interactions(LOG, **options)


def test_an_empty_log_is_refused() -> None:
    with pytest.raises(ValueError, match="0 interactions"):
        split_interactions(LOG.select(np.zeros(len(LOG), dtype=bool)))


def test_advice_where_no_user_has_enough_events() -> None:
    once = make_log([("ann", "a", 1), ("bob", "b", 2)])
    with pytest.raises(ValueError, match="the longest has 1; use method 'time'"):
        split_interactions(once, n=1)
    twice = make_log([("ann", "a", 1), ("ann", "b", 2)])
    with pytest.raises(ValueError, match=r"longest has 2; lower n \(.*\) to at most 1"):
        split_interactions(twice, n=2)


def test_a_log_of_one_moment_has_no_time_split() -> None:
    log = make_log([("ann", "a", 7), ("bob", "b", 7)])
    with pytest.raises(ValueError, match="none of 2 rows is later than the 0.9 quantile .* 7"):
        split_interactions(log, "time")


def test_a_test_part_of_cold_rows_alone_is_refused() -> None:
    log = make_log([("ann", item, time) for time, item in enumerate("abcd")])
    with pytest.raises(ValueError, match=r"all 2 test rows belong to users .* less \(lower n\)"):
        split_interactions(log, n=2)
    with pytest.raises(ValueError, match=r"all 1 test rows .* less \(raise quantile\)"):
        split_interactions(log, "time", quantile=0.7)
    with pytest.raises(ValueError, match=r"all 1 test rows .* less \(lower days\)"):
        split_interactions(replace(log, time=log.time * 10), "time", days=5 / DAY)


# Counts of the paper's Tables 2 and 3 and of its logs.


@pytest.fixture(scope="module")
def movielens(real_data_dir: Path) -> Interactions:
    with warnings.catch_warnings():
        # A copy in the official layout that was zipped again has another md5.
        warnings.filterwarnings("ignore", message=".*md5.*")
        return load_dataset("ml-1m", real_data_dir, progress=False)


@pytest.fixture(scope="module")
def beauty(real_data_dir: Path) -> Interactions:
    return load_dataset("amazon-beauty", real_data_dir, progress=False)


@pytest.fixture(scope="module")
def movielens_split(movielens: Interactions) -> Split:
    return split_interactions(movielens, "leave_last_out", n=10)


@pytest.fixture(scope="module")
def beauty_split(beauty: Interactions) -> Split:
    return split_interactions(beauty, "leave_last_out", n=10)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "history", "test", "kept", "items", "feedback"),
    [
        ("movielens_split", 939_809, 60_400, 60_394, 3_700, [211_802, 327_987, 246_536, 153_484]),
        ("beauty_split", 156_082, 42_420, 42_378, 12_095, [90_800, 30_668, 17_110, 17_504]),
    ],
)
def test_leave_ten_last_out_has_the_papers_counts(
    name: str,
    history: int,
    test: int,
    kept: int,
    items: int,
    feedback: list[int],
    request: pytest.FixtureRequest,
) -> None:
    split = request.getfixturevalue(name)
    assert split.report.parts["test"].rows == test
    assert len(split.test) == kept
    assert split.dropped == test - kept
    assert len(split.history) == history
    assert split.history.num_items == items
    assert list(split.history.feedback_counts().values()) == feedback


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "history", "test"),
    [("movielens", 900_188, 100_021), ("beauty", 178_674, 19_828)],
)
def test_time_split_has_the_papers_counts(
    name: str, history: int, test: int, request: pytest.FixtureRequest
) -> None:
    split = split_interactions(request.getfixturevalue(name), "time", quantile=0.9)
    assert len(split.history) == history
    assert split.report is not None
    assert split.report.parts["test"].rows == test
    assert split.report.test_before_history == 0


@pytest.mark.parametrize("function", [split_interactions, hold_out_validation])
def test_the_defaults_are_those_of_the_settings(function: Callable[..., Split]) -> None:
    settings = SplitConfig()
    for name, parameter in list(inspect.signature(function).parameters.items())[1:]:
        assert parameter.default == getattr(settings, name), name


class TestHowTestsDiffer:
    SPLIT = split_interactions(LOG, n=2)

    def changed(self, part: str, **columns: np.ndarray) -> Split:
        rows = getattr(self.SPLIT, part)
        return replace(self.SPLIT, **{part: replace(rows, **columns)})

    def test_not_at_all(self) -> None:
        assert how_tests_differ(self.SPLIT, split_interactions(LOG, n=2)) == ""

    def test_order_of_rows_and_the_validation_part_do_not_matter(self) -> None:
        train, test = self.SPLIT.train, self.SPLIT.test
        assert len(self.SPLIT.valid) > 0
        other = Split(
            self.SPLIT.history,
            train.select(np.arange(0)),
            test.select(np.arange(len(test))[::-1]),
        )
        assert how_tests_differ(self.SPLIT, other) == ""

    def test_order_of_rows_that_differ_in_the_user_alone_does_not_matter(self) -> None:
        log = Interactions.from_columns([0, 1, 0, 1], [0, 0, 1, 1], [0] * 4, [5] * 4)
        nothing = log.select(np.arange(0))
        order = np.array([1, 0, 3, 2])
        one, other = Split(log, nothing, log), Split(log.select(order), nothing, log.select(order))
        assert how_tests_differ(one, other) == ""

    def test_numbers(self) -> None:  # of items that are known before: not d, not e
        fewer = split_interactions(LOG, n=1)
        assert how_tests_differ(self.SPLIT, fewer) == (
            "3 held-out events, not 1; 6 events before them, not 7"
        )

    def test_events(self) -> None:
        time = self.SPLIT.test.time.copy()
        time[-1] += 1
        found = how_tests_differ(self.SPLIT, self.changed("test", time=time))
        assert found == "other held-out events, such as those of user 'bob'"

    def test_events_of_a_user_after_others(self) -> None:
        log = make_log([(user, "a", 1) for user in ("ann", "bob", "cid")])
        later = replace(log, time=np.array([1, 1, 2]))
        one, other = (Split(part, log.select(np.arange(0)), log) for part in (log, later))
        found = how_tests_differ(one, other)
        assert found == "other events before the held-out ones, such as those of user 'cid'"

    def test_ids(self) -> None:
        renamed = make_log([(u.replace("bob", "bea"), i, t) for u, i, t in external(LOG)])
        found = how_tests_differ(self.SPLIT, split_interactions(renamed, n=2))
        assert found == "other users, such as 'bob'"

    def test_ids_in_another_order(self) -> None:
        log = make_log([(user, "a", 1) for user in ("ann", "bob", "cid")])
        nothing = log.select(np.arange(0))
        sorted_other_way = replace(log, users=Vocabulary(["cid", "bob", "ann"]))
        found = how_tests_differ(
            Split(log, nothing, log), Split(sorted_other_way, nothing, sorted_other_way)
        )
        assert found == "the same users in another order, as of a log that was sorted"


class TestRandom:
    LOG = make_log([(f"u{row % 20}", f"i{row * 7 % 30}", row) for row in range(600)])

    def test_holds_out_a_share_twice(self) -> None:
        split = split_interactions(self.LOG, "random", quantile=0.8)
        assert (len(split.test) + split.dropped, len(split.valid)) == (120, 96)
        assert len(split.train) == 384
        rows = [row for part in (split.train, split.valid, split.test) for row in external(part)]
        assert len(set(rows)) == len(rows)
        assert 0.3 < (split.test.time < 300).mean() < 0.7  # of any time

    def test_is_the_same_each_time(self) -> None:
        one, other = (split_interactions(self.LOG, "random") for _ in range(2))
        assert how_tests_differ(one, other) == ""
        assert external(one.valid) == external(other.valid)

    def test_is_the_same_in_later_versions(self) -> None:
        split = hold_out_validation(self.LOG, "random", quantile=0.9)
        drawn = np.random.default_rng(0).permutation(600)[:60]
        assert sorted(split.valid.time) == sorted(self.LOG.time[drawn])

    def test_needs_no_times_and_says_what_it_does(self) -> None:
        log = replace(self.LOG, time_unit="none", time=np.zeros(600, dtype=np.int64))
        split = split_interactions(log, "random", quantile=0.7)
        assert "random split: test is 0.3 of the rows, drawn at random" in str(split.report)
        with pytest.raises(ValueError, match="no times to split at.*split.method=random"):
            split_interactions(log, "time")

    def test_of_too_few_rows(self) -> None:
        with pytest.raises(ValueError, match="0.1 of 4 rows is less than one; lower quantile"):
            split_interactions(self.LOG.select(np.arange(4)), "random")
        for quantile in (0.0, 1.0):
            with pytest.raises(ValueError, match="quantile must be between 0 and 1"):
                split_interactions(self.LOG, "random", quantile=quantile)

    def test_validation_alone(self) -> None:
        split = hold_out_validation(self.LOG, "random", quantile=0.9)
        assert (len(split.train), len(split.valid), len(split.test)) == (540, 60, 0)


class TestNewest:
    """User 0 has old events and five new ones, user 1 old ones alone, user 2 new ones alone."""

    LOG = Interactions.from_columns(
        [0, 0, 1, 1, 0, 2, 0, 2, 0, 2, 0, 2, 0, 2],
        [0, 1, 0, 1, 2, 0, 3, 1, 4, 2, 1, 3, 0, 4],
        [0] * 14,
        [9, 8, 7, 6, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19],
    )

    def test_the_newest_of_each_user_are_held_out(self) -> None:
        split = split_newest(self.LOG, 10)
        assert sorted(split.test.time.tolist()) == [18, 19]
        assert sorted(split.valid.time.tolist()) == [16, 17]
        assert sorted(split.train.time.tolist()) == [6, 7, 8, 9, 10, 11, 12, 13, 14, 15]
        assert split.dropped == 0

    def test_by_time_the_newest_of_all(self) -> None:
        late = Interactions(
            *(self.LOG.user, self.LOG.item, self.LOG.feedback),
            np.where(self.LOG.user == 2, self.LOG.time + 100, self.LOG.time),
            self.LOG.users,
            self.LOG.items,
        )
        split = split_newest(late, 10, "time")
        assert sorted(split.test.time.tolist()) == [117, 119]
        assert sorted(split.valid.time.tolist()) == [113, 115]
        assert split.test.users.lookup(split.test.user) == [2, 2]

    def test_old_events_are_never_held_out(self) -> None:
        split = split_newest(self.LOG, 10, share=0.5)
        assert split.test.time.min() > 9 and split.valid.time.min() > 9
        assert len(split.train) == 4 + 2  # rounded: 2 and 2 of five

    def test_events_of_an_item_without_others_are_dropped(self) -> None:
        log = Interactions.from_columns([0] * 8, [0, 1, 0, 1, 0, 1, 0, 9], [0] * 8, range(8))
        with pytest.raises(ValueError, match="none of the newest 1 has a user and an item"):
            split_newest(log, 5)

    def test_too_few_new_events(self) -> None:
        with pytest.raises(ValueError, match="2 new events cannot judge a model: no user has"):
            split_newest(self.LOG, 2)
        with pytest.raises(ValueError, match="share must be above 0 and at most 0.5, got 0.6"):
            split_newest(self.LOG, 2, share=0.6)
        with pytest.raises(ValueError, match="share must be above 0 and at most 0.5, got 0"):
            split_newest(self.LOG, 2, share=0)
