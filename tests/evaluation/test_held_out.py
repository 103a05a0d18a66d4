import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from emorec.data.feedback import Feedback
from emorec.data.interactions import Interactions
from emorec.data.vocabulary import Vocabulary
from emorec.evaluation.held_out import HeldOut

LOVE, LIKE, SKIP, HATE = Feedback


def held_out(rows, num_users=2, num_items=3):
    user, item, feedback, time = np.array(rows, dtype=np.int64).reshape(-1, 4).T
    users, items = Vocabulary(range(num_users)), Vocabulary(range(num_items))
    return HeldOut.of(Interactions(user, item, feedback, time, users, items))


def test_pairs_by_user_then_item():
    found = held_out([(1, 0, SKIP, 5), (0, 2, LOVE, 7), (0, 1, HATE, 9)])
    assert found.user.tolist() == [0, 0, 1]
    assert found.item.tolist() == [1, 2, 0]
    assert found.feedback.tolist() == [HATE, LOVE, SKIP]
    assert found.is_positive.tolist() == [False, True, False]
    assert found.counts().tolist() == [[1, 0, 0, 1], [0, 0, 1, 0]]


def test_a_pair_ends_with_its_last_event_and_ties_with_the_later_row():
    found = held_out([(0, 0, HATE, 9), (0, 0, LIKE, 5), (0, 1, HATE, 4), (0, 1, LOVE, 4)])
    assert found.item.tolist() == [0, 1]
    assert found.feedback.tolist() == [HATE, LOVE]


def test_feedback_on_lists():
    found = held_out([(0, 2, LOVE, 0), (1, 0, SKIP, 0)])
    # As a key, the empty place of user 1 would be item 2 of user 0.
    lists = np.array([[-1, 0, 1], [2, 0, -1]])
    assert found.feedback_on(np.array([1, 0]), lists).tolist() == [[-1, SKIP, -1], [LOVE, -1, -1]]


def test_an_empty_hold_out():
    found = held_out([])
    assert found.counts().tolist() == [[0] * 4] * 2
    assert found.feedback_on(np.array([0]), np.array([[0, -1]])).tolist() == [[-1, -1]]


@given(st.lists(st.tuples(*[st.integers(0, n) for n in (1, 2, 3, 3)]), max_size=20))
def test_against_a_dictionary(rows):
    last = {}
    for user, item, kind, _ in sorted(rows, key=lambda row: row[3]):
        last[user, item] = kind
    found = held_out(rows)
    pairs = list(zip(found.user.tolist(), found.item.tolist(), strict=True))
    assert pairs == sorted(last)
    assert found.feedback.tolist() == [last[pair] for pair in pairs]
