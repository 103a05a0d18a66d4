import math

import numpy as np
import pytest

from emorec.evaluation.popularity import gini, popularity_of_lists

# Twenty items: 3 and 7 have most events, so they are the popular tenth.
EVENTS = np.array([1, 1, 1, 9, 1, 1, 1, 8] + [1] * 12)


def test_by_hand():
    found = popularity_of_lists(np.array([[3, 7, 0], [3, -1, -1]]), EVENTS)
    assert found["coverage"] == 3 / 20
    assert found["popular_share"] == 3 / 4
    # Ranks 0, 1, 2 (the first of those with one event) and 0, of 19.
    assert found["popularity_rank"] == pytest.approx((0 + 1 + 2 + 0) / 4 / 19)
    # Counts 2, 1, 1: (19 * 2 + 17 * 1 + 15 * 1) / (20 * 4).
    assert found["gini"] == pytest.approx((19 * 2 + 17 + 15) / 80)


def test_the_popular_tenth_is_rounded_up():
    assert popularity_of_lists(np.array([0, 1]), np.array([2, 1]))["popular_share"] == 0.5


def test_empty_lists():
    assert all(math.isnan(each) for each in popularity_of_lists(np.array([-1]), EVENTS).values())


def test_one_item():
    found = popularity_of_lists(np.array([0, 0]), np.array([5]))
    assert found == {"coverage": 1, "popular_share": 1, "popularity_rank": 0, "gini": 0}


def test_what_is_refused():
    with pytest.raises(ValueError, match="item 20 is out of range, must be in 0 .. 19, or -1"):
        popularity_of_lists(np.array([20]), EVENTS)
    with pytest.raises(ValueError, match="item -2 is out of range"):
        popularity_of_lists(np.array([-2]), EVENTS)
    with pytest.raises(ValueError, match="the catalogue has no items"):
        popularity_of_lists(np.array([0]), np.array([]))


@pytest.mark.parametrize(
    ("counts", "expected"), [([3, 3, 3], 0), ([0, 0, 5], 2 / 3), ([1, 3], 0.25)]
)
def test_gini(counts, expected):
    assert gini(np.array(counts)) == pytest.approx(expected)


def test_gini_of_nothing():
    assert math.isnan(gini(np.zeros(3)))
