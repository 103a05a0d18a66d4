"""A seeded generator of realistic logs with known ground truth."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from emorec.data.feedback import Feedback
from emorec.data.interactions import Interactions
from emorec.data.vocabulary import Vocabulary

__all__ = ["SyntheticLog", "Truth", "generate", "shuffled"]

LOG_START = 1_704_067_200  # 2024-01-01 00:00 UTC
DAY, MINUTE = 86_400, 60

# Tuned so that popularity, recency and topics each carry a signal and none of them all of it.
EVENTS_PER_SESSION = 12
SLATE_SIZE = 16  # items shown at a time
POPULARITY_POWER = 0.75  # exposure falls as rank^-0.75
TOPIC_BOOST = 3.5  # log-odds that the old recommender adds to items of the session's topic
TOPIC_SLOPE = 1.5  # how much taste decides on a session's topic
TOPIC_MOVES_ON = 0.12  # probability per event
CHOICE_SLOPE = 0.5  # how much affinity decides among the items shown
NEARNESS = 10.0  # how much the distance to the last item does, within its topic
LIKE_SLOPE, LIKE_BIAS = 2.0, -0.2


@dataclass(frozen=True)
class Truth:
    """The ground truth of a generated log, with ``T`` topics.

    Attributes:
        topic: Topic of each item, int64 ``[I]``.
        appeal: How good each item is apart from taste, ``[I]``.
        taste_start: Taste at each user's first event, ``[U, T]``; 0 is indifferent.
        taste_end: Taste at each user's last event, ``[U, T]``.
        like_probability: Probability that the user likes the item at their last event, ``[U, I]``.
    """

    topic: np.ndarray
    appeal: np.ndarray
    taste_start: np.ndarray
    taste_end: np.ndarray
    like_probability: np.ndarray


@dataclass(frozen=True)
class SyntheticLog:
    """A generated log and what it was generated from.

    Attributes:
        interactions: The log in order of time. Its vocabularies hold all users and items, those
            without an event included, in the order of the truth's rows and columns.
        truth: The ground truth.
    """

    interactions: Interactions
    truth: Truth

    def like_probability_in(self, part: Interactions) -> np.ndarray:
        """The true like-probability in the order of a part's vocabularies, ``[U', I']``."""
        users = self.interactions.users.indices(part.users.ids)
        items = self.interactions.items.indices(part.items.ids)
        return self.truth.like_probability[np.ix_(users, items)]


def generate(
    num_users: int = 600,
    num_items: int = 400,
    num_topics: int = 16,
    events_per_user: int = 60,
    seed: int = 0,
) -> SyntheticLog:
    """Simulates users who choose among what an old recommender shows them.

    * Items lie in topics, at a place along the topic (as the parts of a series do), and are
      shown with a popularity that falls as a power of their rank.
    * A user loves a few topics and rejects a few; one love and one rejection are lost over the
      user's life and others found. Taste moves linearly in time between the two states.
    * Events come in sessions: minutes between events, days between sessions. A session has a topic,
      which sometimes moves on to the next one; the user goes on near the last item.
    * At each event the old recommender shows popular items, more of the session's topic, and
      none twice to a user. The user picks one by affinity (not always wisely).
    * The event is liked with probability ``sigmoid(LIKE_SLOPE * affinity + LIKE_BIAS)``; the surer
      the verdict, the likelier it is explicit.

    Args:
        num_users: Users, ``U``.
        num_items: Items, ``I``.
        num_topics: Topics, ``T``, at least 8.
        events_per_user: About the mean number of events per user; one user has from 8 to 2.5
            times as many.
        seed: The same seed gives the same log.

    Returns:
        The log and its ground truth.

    Raises:
        ValueError: If a size is too small, or there are too few items for the longest history.
    """
    longest = int(2.5 * events_per_user)
    for name, value, least in (
        ("num_users", num_users, 1),
        ("num_topics", num_topics, 8),
        ("events_per_user", events_per_user, 8),
        ("num_items", num_items, max(num_topics, longest + SLATE_SIZE)),
    ):
        if value < least:
            raise ValueError(
                f"{name} must be at least {least} with {num_topics} topics and "
                f"{events_per_user} events per user, got {value}"
            )
    rng = np.random.default_rng(seed)
    lengths = rng.lognormal(np.log(events_per_user) - 0.15, 0.55, num_users)
    lengths = np.clip(lengths, 8, longest).astype(np.int64)
    time, starts_session = _clock(num_users, longest, rng)
    catalogue = _Catalogue.draw(num_items, num_topics, rng)
    tastes = _draw_tastes(num_users, num_topics, rng)
    item, affinity = _browse(lengths, time, starts_session, catalogue, tastes, rng)

    happened = np.arange(longest) < lengths[:, None]  # [U, L]
    user = np.nonzero(happened)[0]
    feedback = _react(affinity[happened], rng)
    when = time[happened]
    order = np.argsort(when, kind="stable")
    interactions = Interactions(
        user[order],
        item[happened][order],
        feedback[order],
        when[order],
        Vocabulary([f"user-{index:04d}" for index in range(num_users)]),
        Vocabulary([f"t{topic:02d}-{index:04d}" for index, topic in enumerate(catalogue.topic)]),
    )
    final = tastes[1][:, catalogue.topic] + catalogue.appeal
    truth = Truth(catalogue.topic, catalogue.appeal, *tastes, _like_probability(final))
    return SyntheticLog(interactions, truth)


def shuffled(log: SyntheticLog, seed: int = 0) -> Interactions:
    """The same users and times with items and feedback drawn by chance.

    Each user's items are a uniform sample without repeats and feedback is permuted over the
    whole log. So topics, order and even popularity are gone: every unseen item is equally likely to
    be held out, and no recommender's expected Recall@k exceeds ``k`` divided by
    the number of unseen items.

    Args:
        log: The log to take apart.
        seed: The same seed gives the same log.
    """
    rng = np.random.default_rng(seed)
    old = log.interactions
    feedback = rng.permutation(old.feedback)
    draws = np.argsort(rng.random((old.num_users, old.num_items)), axis=1)
    order = old.chronological()
    counts = np.bincount(old.user, minlength=old.num_users)
    place = np.empty(len(old), dtype=np.int64)
    place[order] = np.arange(len(old)) - (np.cumsum(counts) - counts)[old.user[order]]
    return replace(old, item=draws[old.user, place], feedback=feedback)


@dataclass(frozen=True)
class _Catalogue:
    topic: np.ndarray  # [I]
    place: np.ndarray  # [I], in [0, 1] along the topic
    appeal: np.ndarray  # [I]
    log_popularity: np.ndarray  # [I]

    @classmethod
    def draw(cls, num_items: int, num_topics: int, rng: np.random.Generator) -> _Catalogue:
        rank = rng.permutation(num_items) + 1.0
        return cls(
            topic=rng.permutation(np.arange(num_items) % num_topics),
            place=rng.random(num_items),
            appeal=rng.normal(0.0, 0.4, num_items),
            log_popularity=-POPULARITY_POWER * np.log(rank),
        )


def _clock(num_users: int, longest: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Times in seconds, strictly increasing per user, and where sessions start; both ``[U, L]``."""
    starts_session = rng.random((num_users, longest)) < 1 / EVENTS_PER_SESSION
    starts_session[:, 0] = True
    pace = rng.lognormal(np.log(4 * DAY), 0.5, (num_users, 1))  # mean gap between sessions
    gap = 1 + rng.exponential(4 * MINUTE, (num_users, longest))
    gap += np.where(starts_session, rng.exponential(1.0, gap.shape) * pace, 0.0)
    gap[:, 0] = rng.uniform(0, 120 * DAY, num_users)
    return LOG_START + np.cumsum(gap.astype(np.int64), axis=1), starts_session


def _draw_tastes(
    num_users: int, num_topics: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Tastes at the start and at the end of each user's life, ``[U, T]`` both."""
    topics = np.argsort(rng.random((num_users, num_topics)), axis=1)
    levels = rng.normal(0.0, 0.4, (num_users, num_topics))
    levels[:, :3] = rng.normal(2.0, 0.3, (num_users, 3))
    levels[:, 3:6] = rng.normal(-2.0, 0.3, (num_users, 3))
    changed = levels.copy()
    # A love and a rejection swap with topics that left the user cold.
    changed[:, [0, 6]] = levels[:, [6, 0]]
    changed[:, [3, 7]] = levels[:, [7, 3]]
    start, end = np.empty_like(levels), np.empty_like(levels)
    np.put_along_axis(start, topics, levels, axis=1)
    np.put_along_axis(end, topics, changed, axis=1)
    return start, end


def _browse(
    lengths: np.ndarray,
    time: np.ndarray,
    starts_session: np.ndarray,
    catalogue: _Catalogue,
    tastes: tuple[np.ndarray, np.ndarray],
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Lets all users take their events side by side, one step at a time.

    Returns:
        Items and the user's affinity to them, ``[U, L]`` both; unused after a user's length.
    """
    num_users, longest = time.shape
    num_topics = tastes[0].shape[1]
    item = np.zeros((num_users, longest), dtype=np.int64)
    affinity = np.zeros((num_users, longest))
    seen = np.zeros((num_users, len(catalogue.topic)), dtype=bool)
    session_topic = np.zeros(num_users, dtype=np.int64)
    life = np.maximum(time[np.arange(num_users), lengths - 1] - time[:, 0], 1)
    for step in range(int(lengths.max())):
        user = np.flatnonzero(lengths > step)
        age = ((time[user, step] - time[user, 0]) / life[user])[:, None]  # 0 .. 1
        taste = (1 - age) * tastes[0][user] + age * tastes[1][user]  # [A, T]

        wanted = np.argmax(TOPIC_SLOPE * taste + rng.gumbel(size=taste.shape), axis=1)
        moved = session_topic[user] + (rng.random(len(user)) < TOPIC_MOVES_ON)
        session_topic[user] = np.where(starts_session[user, step], wanted, moved % num_topics)

        on_topic = catalogue.topic == session_topic[user, None]  # [A, I]
        shown = catalogue.log_popularity + TOPIC_BOOST * on_topic
        shown = np.where(seen[user], -np.inf, shown + rng.gumbel(size=shown.shape))
        slate = np.argpartition(shown, -SLATE_SIZE, axis=1)[:, -SLATE_SIZE:]  # [A, S]

        liking = np.take_along_axis(taste, catalogue.topic[slate], axis=1)
        liking = liking + catalogue.appeal[slate]
        last = item[user, step - 1, None]  # its value at step 0 is not used
        goes_on = (catalogue.topic[slate] == catalogue.topic[last]) & (step > 0)
        distance = np.abs(catalogue.place[slate] - catalogue.place[last])
        pull = np.where(goes_on, NEARNESS * np.maximum(0.5 - distance, 0.0), 0.0)
        utility = CHOICE_SLOPE * liking + pull + rng.gumbel(size=slate.shape)
        pick = np.argmax(utility, axis=1)[:, None]

        item[user, step] = np.take_along_axis(slate, pick, axis=1)[:, 0]
        affinity[user, step] = np.take_along_axis(liking, pick, axis=1)[:, 0]
        seen[user, item[user, step]] = True
    return item, affinity


def _react(affinity: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws the kind of feedback of each event, int8 ``[N]``."""
    probability = _like_probability(affinity)
    likes = rng.random(len(affinity)) < probability
    certainty = np.abs(2 * probability - 1)
    explicit = rng.random(len(affinity)) < 0.1 + 0.35 * certainty
    kinds = np.array(
        [
            [Feedback.IMPLICIT_NEGATIVE, Feedback.EXPLICIT_NEGATIVE],
            [Feedback.IMPLICIT_POSITIVE, Feedback.EXPLICIT_POSITIVE],
        ],
        dtype=np.int8,
    )
    return kinds[likes.astype(int), explicit.astype(int)]


def _like_probability(affinity: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-(LIKE_SLOPE * affinity + LIKE_BIAS)))
