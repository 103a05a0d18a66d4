from __future__ import annotations

from datetime import date, datetime, timedelta, timezone

import numpy as np
import pandas as pd
import pytest

from emorec.data.requests import first_times, newest_time, requests_at, until
from tests.small import PANDAS_2, small_log

NEVER = np.iinfo(np.int64).max
# User 2 has no event; user 0's two events are in the wrong order.
LOG = small_log([(0, 0, 0, 90), (1, 1, 0, 50), (0, 2, 0, 20), (3, 0, 0, 70)], 4, 3)


class TestOfALog:
    def test_newest(self):
        assert newest_time(LOG).tolist() == [90, 90, 90, 90]
        assert newest_time(small_log([], 2, 3)).tolist() == [0, 0]

    def test_first_of_held_out_events(self):
        held_out = small_log([(1, 0, 0, 80), (1, 2, 0, 60), (3, 2, 0, 95)], 4, 3)
        assert first_times(held_out, LOG).tolist() == [90, 60, 90, 95]

    def test_first_is_not_before_the_last_event_of_the_history(self):
        held_out = small_log([(0, 1, 0, 10), (1, 0, 0, 10)], 4, 3)  # of a split made by hand
        assert first_times(held_out, LOG).tolist() == [90, 50, 90, 90]

    def test_until(self):
        known = until(LOG, np.array([89, 50, 0, 69]))
        assert list(zip(known.user, known.time, strict=True)) == [(1, 50), (0, 20)]
        assert known.num_users == 4


class TestRequestsAt:
    @pytest.mark.parametrize(
        ("at", "seconds"),
        [
            (86_400, 86_400),
            (np.int64(7), 7),
            (1.7, 1),
            (" 86400 ", 86_400),
            ("1970-01-02", 86_400),
            ("1970-01-02T00:00:01.9", 86_401),
            ("1970-01-02 01:00", 90_000),
            ("1970-01-02T00:00:00+01:00", 82_800),
            (date(1970, 1, 3), 172_800),
            (datetime(1970, 1, 1, 1), 3600),
            (datetime(1970, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))), 0),
            (pd.Timestamp("1970-01-01T00:01"), 60),
            (np.datetime64("1970-01-02"), 86_400),
        ],
    )
    def test_of_any_kind(self, at, seconds):
        assert requests_at(at, [1, 3], LOG).tolist() == [NEVER, seconds, NEVER, seconds]
        assert requests_at([at], [1], LOG).tolist() == [NEVER, seconds, NEVER, NEVER]

    @pytest.mark.parametrize(
        ("unit", "ticks"), [("ms", 10_123), ("us", 10_123_456), ("ns", 10_123_456_789)]
    )
    def test_in_the_unit_of_the_log(self, unit, ticks):
        log = small_log([(0, 0, 0, 5)], 1, 1, unit)
        assert requests_at("1970-01-01T00:00:10.123456789", [0], log).tolist() == [ticks]
        assert requests_at(ticks, [0], log).tolist() == [ticks]

    def test_numbers_in_a_coarser_unit(self):
        log = small_log([(0, 0, 0, 5)], 1, 1, "ms")
        assert requests_at([1_700_000_000], [0], log, "s").tolist() == [1_700_000_000_000]
        assert requests_at("1970-01-01T00:00:00.25", [0], log, "s").tolist() == [250]

    def test_whole_numbers_are_exact(self):
        log = small_log([(0, 0, 0, 5)], 1, 1, "ns")
        assert requests_at(1_700_000_000_123_456_789, [0], log).tolist() == [
            1_700_000_000_123_456_789
        ]

    def test_one_per_user_of_several_kinds(self):
        at = [5, "1970-01-01T00:00:09", pd.Timestamp("1970-01-01T00:00:03")]
        assert requests_at(at, [3, "nobody", 0], LOG).tolist() == [3, NEVER, NEVER, 5]
        assert requests_at(pd.Series(at), [3, "nobody", 0], LOG).tolist() == [3, NEVER, NEVER, 5]

    def test_nobody(self):
        assert requests_at(5, [], LOG).tolist() == [NEVER] * 4
        assert requests_at([], [], LOG).tolist() == [NEVER] * 4

    def test_a_user_twice(self):
        assert requests_at([5, 5], [1, 1], LOG)[1] == 5
        with pytest.raises(ValueError, match="at: user 1 is given twice with different times"):
            requests_at([5, 5, 6], [1, 0, 1], LOG)

    @pytest.mark.parametrize(
        "at", ["tomorrow", "", "29/11/2026", None, True, float("nan"), float("inf"), pd.NaT]
    )
    def test_what_is_not_a_time(self, at):
        with pytest.raises(ValueError, match="^at: .* is not a valid time; give an ISO date such"):
            requests_at(at, [0], LOG)
        with pytest.raises(ValueError, match="^at, time 2: .* is not a valid time"):
            requests_at([5, at], [0, 1], LOG)

    @pytest.mark.parametrize("at", [-1, "1969-12-31"])
    def test_before_1970(self, at):
        with pytest.raises(ValueError, match="is before 1970"):
            requests_at(at, [0], LOG)

    def test_numbers_in_a_finer_unit(self):
        with pytest.raises(
            ValueError, match="1700000000000 is after the year 4968; numbers count seconds"
        ):
            requests_at(1_700_000_000_000, [0], LOG)
        # In pandas 2 dates are nanoseconds, so that one is not a date.
        late = "after the year 2262; numbers count nanoseconds"
        message = "'2400-01-01' is not a valid time" if PANDAS_2 else late
        with pytest.raises(ValueError, match=message):
            requests_at("2400-01-01", [0], small_log([(0, 0, 0, 5)], 1, 1, "ns"))

    def test_number_of_times(self):
        with pytest.raises(ValueError, match="at has 1 time for 2 users; give one time for all"):
            requests_at([5], [0, 1], LOG)

    @pytest.mark.parametrize("at", [{5}, {0: 5}, pd.DataFrame({"at": [5]})])
    def test_what_is_not_a_list(self, at):
        with pytest.raises(ValueError, match="must be a time or a list of one time per user, got"):
            requests_at(at, [0], LOG)

    def test_a_log_without_times(self):
        with pytest.raises(ValueError, match="the log has no times, got 5; leave at out"):
            requests_at(5, [0], small_log([(0, 0, 0, 0)], 1, 1, "none"))
