from __future__ import annotations

import time

import numpy as np
import pytest

from emorec.data.feedback import Feedback
from emorec.data.interactions import Interactions
from emorec.data.splits import Split, split_interactions
from emorec.data.synthetic import DAY, SyntheticLog, generate, shuffled


@pytest.fixture(scope="module")
def log() -> SyntheticLog:
    return generate()


@pytest.fixture(scope="module")
def split(log: SyntheticLog) -> Split:
    return split_interactions(log.interactions, n=10)


def recall(scores: np.ndarray, split: Split, k: int = 10) -> float:
    """Mean Recall@k of scores ``[U, I]`` with history masked."""
    scores = scores.astype(float)
    scores[split.history.user, split.history.item] = -np.inf
    relevant = np.zeros(scores.shape, dtype=bool)
    relevant[split.test.user, split.test.item] = True
    top = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    hits = np.take_along_axis(relevant, top, axis=1).sum(axis=1)
    held_out = relevant.sum(axis=1)
    return float((hits[held_out > 0] / held_out[held_out > 0]).mean())


def events_ago(part: Interactions) -> np.ndarray:
    order = part.chronological()
    end = np.cumsum(np.bincount(part.user, minlength=part.num_users))
    ago = np.empty(len(part), dtype=np.int64)
    ago[order] = end[part.user[order]] - 1 - np.arange(len(part))
    return ago


def popularity_scores(split: Split) -> np.ndarray:
    history = split.history
    counts = np.bincount(history.item, minlength=history.num_items)
    return np.tile(counts, (history.num_users, 1))


def item_knn_scores(split: Split, decay: float = 0.85) -> np.ndarray:
    """Cosine neighbours of the history, an event's weight falling by a factor per later event."""
    history = split.history
    rows = np.zeros((history.num_users, history.num_items))
    rows[history.user, history.item] = 1
    common = rows.T @ rows
    cosine = common / np.sqrt(np.outer(np.diag(common), np.diag(common)))
    rows[history.user, history.item] = decay ** events_ago(history)
    return rows @ cosine


def rank_probability(scores: np.ndarray, outcome: np.ndarray) -> float:
    """Probability that a true outcome has a higher score than a false one; ties count half."""
    pairs = scores[outcome][:, None] - scores[~outcome][None, :]
    return float((pairs > 0).mean() + 0.5 * (pairs == 0).mean())


def test_the_same_seed_gives_the_same_log(log: SyntheticLog) -> None:
    one, other = generate(seed=0), generate(seed=1)
    for name in ("user", "item", "feedback", "time"):
        assert np.array_equal(getattr(one.interactions, name), getattr(log.interactions, name))
    assert np.array_equal(one.truth.like_probability, log.truth.like_probability)
    assert not np.array_equal(other.interactions.item[:100], log.interactions.item[:100])


def test_generating_takes_less_than_two_seconds_of_cpu() -> None:
    start = time.process_time()
    generate()
    assert time.process_time() - start < 2


def test_size_and_shape_of_the_log(log: SyntheticLog) -> None:
    rows = log.interactions
    assert (rows.num_users, rows.num_items) == (600, 400)
    assert 52 * 600 < len(rows) < 68 * 600
    per_user = np.bincount(rows.user, minlength=600)
    assert per_user.min() >= 8
    assert per_user.max() <= 150
    assert (np.diff(rows.time) >= 0).all()  # the log is in order of time


def test_no_item_comes_twice_to_a_user(log: SyntheticLog) -> None:
    rows = log.interactions
    assert len(np.unique(rows.user * rows.num_items + rows.item)) == len(rows)


def test_events_come_in_sessions(log: SyntheticLog) -> None:
    rows = log.interactions
    order = rows.chronological()
    gap = np.diff(rows.time[order])[np.diff(rows.user[order]) == 0]
    assert gap.min() >= 1
    assert 0.85 < (gap < 3600).mean() < 0.97  # minutes within a session
    assert (gap > DAY).mean() > 0.04  # days between


def test_all_kinds_of_feedback_occur_and_explicit_ones_are_rarer(log: SyntheticLog) -> None:
    share = {
        kind: count / len(log.interactions)
        for kind, count in log.interactions.feedback_counts().items()
    }
    assert share[Feedback.EXPLICIT_POSITIVE] < share[Feedback.IMPLICIT_POSITIVE]
    assert share[Feedback.EXPLICIT_NEGATIVE] < share[Feedback.IMPLICIT_NEGATIVE]
    assert 0.05 < share[Feedback.EXPLICIT_NEGATIVE]
    assert 0.55 < log.interactions.is_positive.mean() < 0.8


def test_popularity_is_skewed(log: SyntheticLog) -> None:
    counts = np.sort(np.bincount(log.interactions.item, minlength=400))[::-1]
    assert counts[:40].sum() / counts.sum() > 0.18  # the top tenth
    assert counts[200:].sum() / counts.sum() < 0.4  # the lower half


def test_popularity_helps_and_recency_helps_much_more(split: Split) -> None:
    popular = recall(popularity_scores(split), split)
    assert 0.05 < popular < 0.12
    assert recall(item_knn_scores(split), split) > 1.5 * popular


def test_the_latest_events_say_more_than_the_whole_history(split: Split) -> None:
    assert recall(item_knn_scores(split), split) > 1.3 * recall(
        item_knn_scores(split, decay=1.0), split
    )


def test_past_dislikes_in_a_topic_predict_later_ones(log: SyntheticLog) -> None:
    rows, topic = log.interactions, log.truth.topic
    per_user = np.bincount(rows.user, minlength=rows.num_users)
    early = events_ago(rows) >= per_user[rows.user] / 2
    balance = np.zeros((rows.num_users, topic.max() + 1))
    polarity = np.where(rows.is_positive, 1, -1)
    np.add.at(balance, (rows.user[early], topic[rows.item[early]]), polarity[early])
    late = np.flatnonzero(~early)[:6000]
    scores = balance[rows.user[late], topic[rows.item[late]]]
    assert rank_probability(scores, rows.is_positive[late]) > 0.65


def test_truth_is_calibrated_at_the_end_of_each_users_life(log: SyntheticLog) -> None:
    rows = log.interactions
    last = events_ago(rows) == 0
    truth = log.truth.like_probability[rows.user[last], rows.item[last]]
    liked = rows.is_positive[last]
    # 600 coin flips of known probability: their mean lies within 4 standard errors.
    error = np.sqrt((truth * (1 - truth)).sum()) / len(truth)
    assert abs(liked.mean() - truth.mean()) < 4 * error
    assert rank_probability(truth, liked) > 0.75


def test_tastes_drift(log: SyntheticLog) -> None:
    start, end = log.truth.taste_start, log.truth.taste_end
    assert ((start != end).sum(axis=1) == 4).all()  # a love and a rejection, lost and found
    assert np.allclose(np.sort(start, axis=1), np.sort(end, axis=1))


def test_truth_in_the_order_of_a_split(log: SyntheticLog, split: Split) -> None:
    probability = log.like_probability_in(split.train)
    assert probability.shape == (split.train.num_users, split.train.num_items)
    user, item = split.train.users.ids[5], split.train.items.ids[7]
    rows = log.interactions
    assert (
        probability[5, 7]
        == log.truth.like_probability[rows.users.indices([user])[0], rows.items.indices([item])[0]]
    )


def test_nothing_beats_chance_on_the_shuffled_log(log: SyntheticLog) -> None:
    rows = shuffled(log, seed=4)
    split = split_interactions(rows, n=10)
    unseen = rows.num_items - np.bincount(split.history.user, minlength=rows.num_users)
    chance = float((10 / unseen[np.unique(split.test.user)]).mean())  # about 0.029
    # Hits are about binomial; four standard errors over all hold-out rows.
    margin = 4 * np.sqrt(chance / len(split.test))
    assert abs(recall(popularity_scores(split), split) - chance) < margin
    assert abs(recall(item_knn_scores(split), split) - chance) < margin
    assert abs(recall(log.like_probability_in(split.history), split) - chance) < margin


def test_shuffling_keeps_users_times_and_the_number_of_each_kind(log: SyntheticLog) -> None:
    old, new = log.interactions, shuffled(log, seed=4)
    assert np.array_equal(old.user, new.user)
    assert np.array_equal(old.time, new.time)
    assert old.feedback_counts() == new.feedback_counts()
    assert len(np.unique(new.user * new.num_items + new.item)) == len(new)
    assert np.array_equal(new.item, shuffled(log, seed=4).item)
    assert not np.array_equal(new.item, shuffled(log, seed=5).item)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"num_items": 100}, "num_items must be at least 166 .* 60 events per user, got 100"),
        ({"num_users": 0}, "num_users must be at least 1 .* got 0"),
        ({"num_topics": 3}, "num_topics must be at least 8 .* got 3"),
        ({"events_per_user": 2}, "events_per_user must be at least 8 .* got 2"),
    ],
)
def test_sizes_that_cannot_be_are_refused(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate(**sizes)


def test_a_small_log() -> None:
    log = generate(num_users=5, num_items=40, num_topics=8, events_per_user=8, seed=2)
    assert log.interactions.num_users == 5
    assert log.truth.like_probability.shape == (5, 40)
