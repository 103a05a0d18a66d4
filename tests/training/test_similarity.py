import numpy as np
from scipy import sparse

from emorec.baselines import ItemKNN, RidgeKNN
from emorec.training import similarity
from emorec.training.similarity import newest_items, similar_items
from tests.small import random_events, small_log


def random_log(num_users=30, num_items=15):
    events = random_events(num_users=num_users, num_items=num_items, most_events=12)
    user = np.repeat(np.arange(num_users), np.diff(events.offsets))
    rows = zip(user, events.item, events.feedback, events.time, strict=True)
    return small_log([tuple(map(int, row)) for row in rows], num_users, num_items)


def test_similarity_and_weights_are_scaled_and_added():
    log = random_log()
    cosine = ItemKNN(15).fit(log).similarity.toarray()
    weights = RidgeKNN(14).fit(log).weights.toarray()
    expected = cosine / cosine.max(1).mean() + weights / weights.max(1).mean()
    np.testing.assert_allclose(similar_items(log, 14).toarray(), expected, rtol=1e-5, atol=1e-7)


def test_the_largest_are_kept():
    log = random_log()
    cosine = ItemKNN(4).fit(log).similarity.toarray()
    weights = RidgeKNN(3).fit(log).weights.toarray()
    both = cosine / cosine.max(1).mean() + weights / weights.max(1).mean()
    kept = similar_items(log, 3)
    assert (np.count_nonzero(both, axis=1) > 4).any()  # there is something to leave out
    assert np.diff(kept.indptr).max() == 4  # the item itself is one of them
    for row, few in zip(both, kept.toarray(), strict=True):
        smallest = np.sort(np.abs(row))[-4]
        expected = np.where(np.abs(row) >= smallest, row, 0)
        np.testing.assert_allclose(few, expected, rtol=1e-5, atol=1e-7)


def test_an_empty_log():
    none = similar_items(small_log([], 2, 3), 5)
    assert none.shape == (3, 3)
    assert none.nnz == 0
    assert isinstance(none, sparse.csr_matrix)


def test_items_without_events_count_in_the_means():
    rows = [(0, 0, 0, 1), (0, 1, 0, 2), (1, 1, 0, 1), (1, 2, 0, 2), (2, 0, 0, 1), (2, 2, 0, 3)]
    log = small_log(rows, 3, 6)  # half of the items: a is 1/2
    cosine = ItemKNN(6).fit(log).similarity.toarray()
    weights = RidgeKNN(5).fit(log).weights.toarray()
    assert cosine.max(1).mean() == 0.5
    expected = 2 * cosine + weights / weights.max(1).mean()
    np.testing.assert_allclose(similar_items(log, 5).toarray(), expected, rtol=1e-5, atol=1e-7)


def test_the_newest_items_of_a_user_are_kept_with_all_their_events():
    # User 0 has seen items 4, 3, 2, 1 last at times 9, 8, 6, 2, in this order from the newest.
    rows = [(0, 2, 0, 6), (0, 3, 1, 8), (1, 1, 0, 1), (0, 4, 0, 9), (0, 3, 0, 1), (0, 1, 0, 2)]
    log = small_log([*rows, (1, 2, 0, 2)], 3, 5)
    assert newest_items(log, 5) is log  # 6 events are 4 items
    kept = newest_items(log, 4)
    assert kept.time.tolist() == log.time.tolist()
    kept = newest_items(log, 3)
    assert kept.time[kept.user == 0].tolist() == [6, 8, 9, 1]
    assert kept.time[kept.user == 1].tolist() == [1, 2]
    kept = newest_items(log, 1)
    assert kept.item[kept.user == 0].tolist() == [4]
    assert kept.item[kept.user == 1].tolist() == [2]


def test_of_equal_times_the_last_rows_are_the_newest():
    log = small_log([(0, item, 0, 5) for item in (3, 0, 2, 1)], 1, 4)
    assert newest_items(log, 2).item.tolist() == [2, 1]


def test_more_users_than_items():
    log = small_log([(user, item, 0, item) for user in range(7) for item in range(3)], 7, 3)
    assert newest_items(log, 2).item.tolist() == [1, 2] * 7


def test_items_that_count_are_as_many_as_documented():
    assert f"more than {similarity.MOST_ITEMS:,} different items" in similar_items.__doc__


def test_nothing_positive_to_scale_by():
    assert similarity._mean_largest(sparse.csr_matrix([[-2.0, 0.0], [-1.0, -3.0]])) == 1
    assert similarity._mean_largest(sparse.csr_matrix((0, 0))) == 1
    assert similarity._mean_largest(sparse.csr_matrix([[3.0, 0.0], [-1.0, 2.0]])) == 2.5


def test_older_items_of_a_long_history_do_not_count(monkeypatch):
    rows = [(user, item, 0, item) for user in range(8) for item in range(user, 12)]
    rows += [(8, item, 0, item) for item in range(2_000)]  # a bot: 4 million pairs
    log = small_log(rows, 9, 2_000)
    monkeypatch.setattr(similarity, "MOST_ITEMS", 15)
    found = similar_items(log, 5)
    is_old = (log.user == 8) & (log.item < 1_985)
    expected = similar_items(log.select(~is_old), 5)
    np.testing.assert_array_equal(found.toarray(), expected.toarray())
    assert found[20].nnz == 0 and found[1_999].nnz == 6


def test_progress_is_shown_on_request(capsys):
    log = random_log()
    similar_items(log, 3)
    assert capsys.readouterr().err == ""
    similar_items(log, 3, progress=True)
    shown = capsys.readouterr().err
    assert "similar items: " in shown and "their weights: " in shown
