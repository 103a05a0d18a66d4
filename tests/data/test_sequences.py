from __future__ import annotations

import numpy as np
import pytest
import torch

from emorec.data.sequences import CLS, EventSequences, Windows, ranges
from tests.small import random_events, small_log

DAY = 86_400

# Interleaved users; user 1 has nobody's events, user 0 two at the same second (items 5, 4).
LOG = small_log(
    [
        (0, 3, 0, 9 * DAY),
        (2, 1, 3, 5 * DAY),
        (0, 5, 1, 2 * DAY),
        (2, 2, 2, 4 * DAY),
        (0, 4, 2, 2 * DAY),
        (0, 3, 3, 10 * DAY),
        (2, 0, 0, 5 * DAY + DAY // 2),
    ],
    num_users=3,
    num_items=6,
)
EVENTS = EventSequences.build(LOG)


class TestBuild:
    def test_sorts_by_user_and_time_and_ties_by_the_log(self):
        assert EVENTS.offsets.tolist() == [0, 4, 4, 7]
        assert EVENTS.item.tolist() == [5, 4, 3, 3, 2, 1, 0]
        assert EVENTS.feedback.tolist() == [1, 2, 0, 3, 2, 3, 0]
        assert (EVENTS.time / DAY).tolist() == [2, 2, 9, 10, 4, 5, 5.5]
        assert EVENTS.lengths.tolist() == [4, 0, 3]
        assert EVENTS.num_users == 3

    @pytest.mark.parametrize(("unit", "ticks"), [("s", 86_400), ("ms", 86_400_000)])
    def test_ticks_per_day(self, unit, ticks):
        assert EventSequences.build(small_log([(0, 0, 0, 0)], 1, 1, unit)).ticks_per_day == ticks

    def test_of_an_empty_log(self):
        events = EventSequences.build(small_log([], 2, 3))
        assert events.lengths.tolist() == [0, 0]
        assert len(events.windows(5)) == 0


def test_cls_is_one_below_the_indices():
    assert CLS == -1  # tables of vectors have a row for it in front


def test_ranges():
    row, number = ranges(np.array([5, 9, 0]), np.array([2, 0, 3]))
    assert row.tolist() == [0, 0, 2, 2, 2]
    assert number.tolist() == [5, 6, 0, 1, 2]


class TestEvents:
    def test_oldest_events_of_users_in_the_order_given(self):
        place, row = EVENTS.events(np.array([2, 0]), np.array([2, 1]))
        assert place.tolist() == [0, 0, 1]
        assert EVENTS.item[row].tolist() == [2, 1, 5]

    def test_all_events_by_default(self):
        place, row = EVENTS.events(np.array([1, 2]))
        assert place.tolist() == [1, 1, 1]
        assert EVENTS.item[row].tolist() == [2, 1, 0]


class TestSelect:
    def test_events_of_the_same_users(self):
        # By user, items 5 4 3 3 | | 2 1 0.
        some = EVENTS.select(np.array([0, 1, 1, 0, 1, 0, 1], dtype=bool))
        assert some.offsets.tolist() == [0, 2, 2, 4]
        assert some.item.tolist() == [4, 3, 2, 0]
        assert some.feedback.tolist() == [2, 0, 2, 0]
        assert (some.time / DAY).tolist() == [2, 9, 4, 5.5]
        assert some.ticks_per_day == DAY

    def test_none(self):
        assert EVENTS.select(np.zeros(7, dtype=bool)).offsets.tolist() == [0, 0, 0, 0]


class TestAllTargets:
    def test_of_users_in_the_order_given(self):
        targets = EVENTS.all_targets(np.array([2, 0]))
        assert targets.item.tolist() == [[2, 1, 0, 2], [5, 4, 3, 3]]
        assert targets.feedback.tolist() == [[2, 3, 0, 2], [1, 2, 0, 3]]
        assert targets.exists.tolist() == [[True, True, True, False], [True] * 4]
        assert targets.place.tolist() == [0, 0]

    def test_of_nobody(self):
        assert EVENTS.all_targets(np.zeros(0, dtype=int)).item.shape == (0, 0)


class TestWindows:
    def test_reach_back_from_the_newest_event(self):
        seven = EventSequences.build(small_log([(0, 0, 0, t) for t in range(7)], 1, 1))
        windows = seven.windows(3)
        assert sorted(zip(windows.start.tolist(), windows.stop.tolist(), strict=True)) == [
            (0, 1),
            (1, 4),
            (4, 7),
        ]

    @pytest.mark.parametrize("max_length", [1, 2, 3, 7, 100])
    def test_each_event_is_a_target_exactly_once(self, max_length):
        events = random_events(num_users=20, most_events=15)
        windows = events.windows(max_length)
        assert (windows.stop - windows.start).max() <= max_length
        _, targets = events.training_batch(windows)
        row = np.repeat(windows.user, windows.stop - windows.start)
        found = events.offsets[row] + targets.place.numpy()
        assert sorted(found.tolist()) == list(range(len(events.item)))

    def test_select(self):
        windows = EVENTS.windows(2).select(np.array([1]))
        assert len(windows) == 1
        assert (windows.user[0], windows.start[0], windows.stop[0]) == (0, 0, 2)


class TestTrainingBatch:
    batch, targets = EVENTS.training_batch(
        Windows(np.array([2, 0]), np.array([0, 1]), np.array([3, 4]))
    )

    def test_inputs(self):
        batch = self.batch
        assert batch.user.tolist() == [2, 0]
        assert batch.cu_seqlens.tolist() == [0, 3, 6]
        assert batch.item.tolist() == [CLS, 2, 1, CLS, 4, 3]
        assert batch.feedback.tolist() == [CLS, 2, 3, CLS, 2, 0]
        assert batch.position.tolist() == [0, 1, 2, 0, 1, 2]
        # [CLS] has the time of the window's first event.
        assert batch.days.tolist() == [0, 0, 1, 0, 0, 7]
        assert batch.days.dtype == torch.float64
        # of the last event to the target, which is not a token
        assert batch.days_to_next.tolist() == [0, 1, 0.5, 0, 7, 1]
        assert batch.position.dtype == torch.int32

    def test_targets_are_the_events_that_follow(self):
        assert self.targets.item.tolist() == [[2], [1], [0], [4], [3], [3]]
        assert self.targets.feedback.tolist() == [[2], [3], [0], [2], [0], [3]]
        assert self.targets.place.tolist() == [0, 1, 2, 1, 2, 3]
        assert self.targets.exists.all()

    def test_a_longer_horizon_goes_beyond_the_window_but_not_beyond_the_user(self):
        windows = Windows(np.array([2, 0]), np.array([0, 1]), np.array([3, 3]))
        _, targets = EVENTS.training_batch(windows, horizon=3)
        assert targets.exists.int().tolist() == [
            [1, 1, 1],
            [1, 1, 0],
            [1, 0, 0],
            [1, 1, 1],  # event 3 lies beyond the window 1:3
            [1, 1, 0],
        ]
        assert targets.item[targets.exists].tolist() == [2, 1, 0, 1, 0, 0, 4, 3, 3, 3, 3]
        assert targets.feedback[targets.exists].tolist() == [2, 3, 0, 3, 0, 0, 2, 0, 3, 0, 3]
        # what does not exist repeats the next event: an index that is safe to look up
        assert targets.item[~targets.exists].tolist() == [1, 0, 0, 3]

    def test_derived_columns(self):
        assert self.batch.lengths.tolist() == [3, 3]
        assert self.batch.row.tolist() == [0, 0, 0, 1, 1, 1]
        assert self.batch.last.tolist() == [2, 5]

    def test_window_of_one_event_is_cls_alone(self):
        batch, targets = EVENTS.training_batch(Windows(np.array([2]), np.array([2]), np.array([3])))
        assert batch.item.tolist() == [CLS]
        assert targets.item.tolist() == [[0]]


class TestInferenceBatch:
    def test_newest_events(self):
        batch = EVENTS.inference_batch(np.array([0, 1, 2]), max_length=3)
        assert batch.item.tolist() == [CLS, 3, 3, CLS, CLS, 1, 0]
        assert batch.feedback.tolist() == [CLS, 0, 3, CLS, CLS, 3, 0]
        assert batch.days.tolist() == [0, 0, 1, 0, 0, 0, 0.5]
        assert batch.cu_seqlens.tolist() == [0, 3, 4, 7]

    def test_the_request_follows_the_last_event(self):
        users, request = np.array([2, 1, 0]), np.array([7, 9, 10]) * DAY
        batch = EVENTS.inference_batch(users, max_length=3, request=request)
        assert batch.days_to_next.tolist() == [0, 0.5, 1.5, 0, 0, 1, 0]
        batch = EVENTS.inference_batch(users, 3, np.array([2, 0, 1]), request)
        assert batch.item.tolist() == [CLS, 2, 1, CLS, CLS, 5]
        assert batch.days_to_next.tolist() == [0, 1, 2, 0, 0, 8]

    def test_without_a_request_no_time_passes(self):
        batch = EVENTS.inference_batch(np.array([0, 2]), max_length=3)
        assert batch.days_to_next.tolist() == [0, 1, 0, 0, 0.5, 0]

    @pytest.mark.parametrize("max_length", [1, 2, 4])
    def test_has_the_positions_that_are_trained(self, max_length):
        events = EventSequences.build(small_log([(0, 0, 0, time) for time in range(9)], 1, 1))
        trained, _ = events.training_batch(events.windows(max_length))
        batch = events.inference_batch(np.array([0]), max_length)
        assert batch.position.tolist() == list(range(max_length))
        assert set(trained.position.tolist()) == set(batch.position.tolist())

    def test_short_histories_come_whole(self):
        batch = EVENTS.inference_batch(np.array([2]), max_length=50)
        assert batch.item.tolist() == [CLS, 2, 1, 0]

    def test_last_user_without_events(self):
        events = random_events()
        batch = events.inference_batch(np.array([events.num_users - 1]), max_length=5)
        assert batch.item.tolist() == [CLS]
        assert batch.days.tolist() == [0]

    def test_nobody_has_events(self):
        events = EventSequences.build(small_log([], 2, 3))
        batch = events.inference_batch(np.array([0, 1]), max_length=5)
        assert batch.item.tolist() == [CLS, CLS]


@pytest.mark.parametrize(("unit", "ticks"), [("s", 86_400), ("ms", 86_400_000)])
def test_days_are_differences_taken_in_int64(unit, ticks):
    # One tick apart, 60 years after the epoch: float32 would round either away.
    start = 60 * 365 * ticks
    rows = [(0, 0, 0, start), (0, 1, 0, start + 1), (0, 2, 0, start + 100 * 365 * ticks + 3)]
    batch = EventSequences.build(small_log(rows, 1, 3, unit)).inference_batch(np.array([0]), 9)
    assert batch.days.tolist() == [0, 0, 1 / ticks, 36_500 + 3 / ticks]


def test_moves_to_a_device(device):
    batch, targets = EVENTS.training_batch(EVENTS.windows(4))
    moved = batch.to(device)
    assert all(value.device.type == device.type for value in vars(moved).values())
    assert moved.item.tolist() == batch.item.tolist()
    assert targets.to(device).place.tolist() == targets.place.tolist()
