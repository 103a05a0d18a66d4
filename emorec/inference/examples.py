"""Chooses a few users and shows their histories, lists and reasons, for the report."""

from __future__ import annotations

from typing import Any

import numpy as np

from emorec.data.feedback import Feedback
from emorec.data.interactions import Interactions
from emorec.data.requests import newest_time
from emorec.data.titles import Titles
from emorec.evaluation.held_out import UNKNOWN, HeldOut
from emorec.inference.explain import KIND_WORDS, Explanation, can_explain, explain
from emorec.nn.model import Recommender
from emorec.reports.examples import Example, ListedItem, PastEvent
from emorec.texts import plain

__all__ = ["EXPLAINED_EVENTS", "choose_users", "examples_of"]

EXPLAINED_EVENTS = 20
"""Newest events of each user that reasons are looked for in, which bounds the cost."""

_SHOWN_EVENTS = 8


def choose_users(history: Interactions, test: Interactions, number: int, seed: int) -> np.ndarray:
    """Users with a held-out event and a dislike, spread over the lengths of histories.

    They are ordered by the length of their history and cut into groups of equal size, of which each
    gives one user at random. Where fewer than ``number`` have a dislike, all users with a held-out
    event and a history are eligible.

    Args:
        history: The events before the hold-out.
        test: The held-out events.
        number: How many to choose; fewer where there are not as many.
        seed: Of the choice.

    Returns:
        User indices, int64 ``[N]``, by rising length of history.
    """
    length = np.bincount(history.user, minlength=history.num_users)
    is_negative = history.feedback > Feedback.IMPLICIT_POSITIVE
    dislikes = np.bincount(history.user[is_negative], minlength=history.num_users)
    tested = np.unique(test.user)
    tested = tested[length[tested] > 0]
    eligible = tested[dislikes[tested] > 0]
    if len(eligible) < number:
        eligible = tested
    ordered = eligible[np.argsort(length[eligible], kind="stable")]
    rng = np.random.default_rng(seed)
    groups = [group for group in np.array_split(ordered, number) if len(group)]
    return np.array([rng.choice(group) for group in groups], dtype=np.int64)


def examples_of(
    model: Recommender,
    history: Interactions,
    test: Interactions,
    users: np.ndarray,
    lists: np.ndarray,
    requests: np.ndarray | None = None,
    device: str = "cpu",
    titles: Titles | None = None,
) -> list[Example]:
    """Histories and lists of users, with the event that raises each item most.

    Reasons are looked for among the newest `EXPLAINED_EVENTS` events, by leaving out one at a time,
    see `emorec.inference.explain`. A model that cannot be explained so has lists without reasons.

    Args:
        model: The model.
        history: The events before the hold-out.
        test: The held-out events.
        users: User indices, int64 ``[N]``, each with an event.
        lists: Their lists, int64 ``[N, k]``; -1 for an empty place.
        requests: Time of each user's request, int64 ``[U]``; None: that of the newest event.
        device: Where to compute.
        titles: Titles of the items; None: they have none.
    """
    times = newest_time(history) if requests is None else requests
    held_out = HeldOut.of(test.of_users(users))
    feedback = held_out.feedback_on(users, lists)
    num_held_out = held_out.counts().sum(axis=1)
    explains = can_explain(model)
    examples = []
    for row, user in enumerate(users):
        own = history.of_users(np.array([user]))
        own = own.select(np.argsort(own.time, kind="stable")[::-1])  # the newest first
        places = np.flatnonzero(lists[row] >= 0)
        items = lists[row][places]
        reasons: list[Explanation | None] = [None] * len(items)
        if explains and len(items):
            request = int(times[user])
            reasons = [
                *explain(
                    model, history, int(user), items, request, device, titles, EXPLAINED_EVENTS
                )
            ]
        names = _names(history, items, titles)
        past = own.select(np.arange(min(_SHOWN_EVENTS, len(own))))
        examples.append(
            Example(
                user=str(plain(history.users.lookup(np.array([user]))[0])),
                num_events=len(own),
                num_held_out=int(num_held_out[user]),
                events=[
                    PastEvent(name, Feedback(kind))
                    for name, kind in zip(
                        _names(history, past.item, titles), past.feedback, strict=True
                    )
                ],
                items=[
                    ListedItem(
                        name,
                        None if reason is None else reason.liked,
                        "" if reason is None else _reason(reason),
                        None if kind == UNKNOWN else Feedback(kind),
                    )
                    for name, reason, kind in zip(
                        names, reasons, feedback[row][places], strict=True
                    )
                ],
            )
        )
    return examples


def _names(history: Interactions, items: np.ndarray, titles: Titles | None) -> list[str]:
    """Titles of items, or their ids where they have none."""
    ids = history.items.lookup(items)
    texts = [None] * len(ids) if titles is None else titles.of(ids)
    return [str(plain(i)) if text is None else text for i, text in zip(ids, texts, strict=True)]


def _reason(explanation: Explanation) -> str:
    """The event that raises an item most, and the term that does most of it."""
    raising = explanation.events[explanation.events["effect"] > 0]
    if raising.empty:
        return ""
    row: dict[Any, Any] = raising.iloc[0].to_dict()
    title = row.get("title")
    term = max(explanation.terms, key=lambda name: row[name]).replace("_", " ")
    word = KIND_WORDS[Feedback.from_label(row["feedback"])]
    name = title if isinstance(title, str) else plain(row["item"])
    return f"raised by {name} ({word}): {row['effect']:+.2f}, most of it from {term}"
