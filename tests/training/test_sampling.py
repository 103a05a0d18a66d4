from __future__ import annotations

import numpy as np
import pytest

from emorec.data.sequences import EventSequences
from emorec.training.sampling import ItemSampler
from tests.small import random_events, small_log

# User 0 likes items 0, 1 and dislikes 2, 3; user 1 knows all but 5; user 2 knows all; user 3 none.
EVENTS = EventSequences.build(
    small_log(
        [(0, 0, 0, 1), (0, 1, 1, 2), (0, 2, 2, 3), (0, 3, 3, 4)]
        + [(1, item, 0, item) for item in range(5)]
        + [(2, item, 1, item) for item in range(6)],
        num_users=4,
        num_items=6,
    )
)
ALL = np.arange(6)


def draw(users, size=400, seed=0, candidates=ALL, **options):
    sampler = ItemSampler(EVENTS, candidates, 6, **options)
    return sampler.sample(np.array(users), size, np.random.default_rng(seed))


def test_never_an_item_that_the_user_knows():
    items, valid = draw([0, 1, 3])
    assert items.shape == valid.shape == (3, 400)
    # A draw that finds nothing in many rounds is called invalid, not filled with a known item.
    assert valid.mean() > 0.97
    assert set(items[0, valid[0]]) == {4, 5}
    assert set(items[1, valid[1]]) == {5}
    assert set(items[2]) == set(range(6))
    assert valid[2].all()


def test_unobserved_items_are_equally_likely():
    items, valid = draw([0], size=4000)
    assert (items[valid] == 4).mean() == pytest.approx(0.5, abs=0.05)


def test_a_user_who_knows_everything_yields_nothing():
    _, valid = draw([2, 0])
    assert not valid[0].any()
    assert valid[1].all()


def test_only_candidates():
    items, valid = draw([0, 3], candidates=np.array([1, 4]))
    assert set(items[0, valid[0]]) == {4}
    assert set(items[1, valid[1]]) == {1, 4}
    assert valid.mean() > 0.97


class TestDislikes:
    def test_come_with_the_share_asked_for(self):
        items, valid = draw([0], size=4000, observed_share=0.3)
        disliked = np.isin(items, [2, 3]) & valid
        assert disliked.mean() == pytest.approx(0.3, abs=0.03)
        assert set(items[~disliked & valid]) == {4, 5}
        assert (items == 2).mean() == pytest.approx(0.15, abs=0.03)
        assert valid.mean() > 0.99

    def test_all_of_them(self):
        items, _ = draw([0], observed_share=1.0)
        assert set(items[0]) == {2, 3}

    def test_are_valid_even_where_nothing_is_unobserved(self):
        rows = [(0, item, 3 if item in (1, 4) else 0, item) for item in range(6)]
        sampler = ItemSampler(EventSequences.build(small_log(rows, 1, 6)), ALL, 6, 0.5)
        items, valid = sampler.sample(np.zeros(1, int), 4000, np.random.default_rng(0))
        assert set(items[valid]) == {1, 4}
        assert valid.mean() == pytest.approx(0.5, abs=0.05)  # the draws that were to be unobserved

    def test_users_without_any_get_unobserved_items(self):
        items, valid = draw([1, 3, 2], observed_share=1.0)
        assert set(items[0, valid[0]]) == {5}
        assert set(items[1]) == set(range(6))
        assert valid[1].all()
        assert not valid[2].any()

    def test_are_the_users_own(self):
        events = random_events(num_users=15, num_items=40, seed=3)
        sampler = ItemSampler(events, np.arange(40), 40, observed_share=1.0)
        user = np.arange(15)
        items, valid = sampler.sample(user, 50, np.random.default_rng(0))
        assert valid.all()
        for u in user:
            own = slice(events.offsets[u], events.offsets[u + 1])
            disliked = events.item[own][events.feedback[own] >= 2]
            if len(disliked):
                assert set(items[u]) == set(disliked)
            else:
                assert not set(items[u]) & set(events.item[own])


def test_the_generator_decides():
    first, again, other = (draw([0, 3], seed=seed, observed_share=0.5)[0] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_nobody_asks():
    items, valid = draw(np.zeros(0, dtype=int), size=3, observed_share=0.5)
    assert items.shape == valid.shape == (0, 3)
