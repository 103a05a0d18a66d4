"""Why an item is ranked where it is: what each past event of the user adds to its score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from emorec.data.feedback import Feedback
from emorec.data.interactions import Interactions
from emorec.data.sequences import EventSequences
from emorec.data.titles import Titles
from emorec.data.vocabulary import Vocabulary
from emorec.evaluation.scores import users_at_a_time
from emorec.inference.ranking import ModelScorer, Terms
from emorec.nn.model import Recommender
from emorec.nn.polarity import ItemPolarity
from emorec.texts import count, plain, visible

__all__ = ["KIND_WORDS", "MOST_EVENTS", "Explanation", "can_explain", "explain"]

MOST_EVENTS = 200
"""Newest events of a user that are left out one by one; older ones have no effect of their own."""

KIND_WORDS = {
    Feedback.EXPLICIT_POSITIVE: "liked",
    Feedback.IMPLICIT_POSITIVE: "played",
    Feedback.IMPLICIT_NEGATIVE: "skipped",
    Feedback.EXPLICIT_NEGATIVE: "disliked",
}
"""What a user did with an item, in a word."""

_SHOWN = 3  # events of each direction, in words
_LEAST_SHOWN = 0.005  # of a term


@dataclass(frozen=True, eq=False)
class Explanation:
    """Why an item has its score for a user.

    Attributes:
        user: The user's own id.
        item: The item's own id.
        score: What the item is ranked by.
        terms: The terms of the ranking that the model has, which sum to the score, by name.
        liked: P(positive | user, item), or None if the model does not predict it.
        events: One row per event of the user, the largest effect first: ``item`` (own id),
            ``feedback`` (label), ``newer`` (number of newer events), ``effect`` (the score less the
            score without this event, all else equal) and that of each term, by its name. With
            more events than are left out one by one, of the newest. If the model has titles, they
            are in a column ``title`` after the item.
        title: The item's title; None if it has none.
    """

    user: Any
    item: Any
    score: float
    terms: dict[str, float]
    liked: float | None
    events: pd.DataFrame
    title: str | None = None

    def __str__(self) -> str:
        terms = " ".join(
            f"{value:+.2f} {_name(name)}"
            for name, value in self.terms.items()
            if abs(value) >= _LEAST_SHOWN
        )
        item = _titled(self.item, self.title)
        lines = [f"Item {item} for user {plain(self.user)}: {self.score:.2f} = {terms}"]
        if self.liked is not None:
            lines.append(f"  predicted to be liked with probability {self.liked:.2f}")
        for how, rows in (
            ("raised by", self.events[self.events["effect"] > 0]),
            ("lowered by", self.events[self.events["effect"] < 0]),
        ):
            for row in rows.head(_SHOWN).to_dict("records"):
                lines.append(f"  {how} {self._event(row)}")
        return "\n".join(lines)

    def _event(self, row: Mapping[Any, Any]) -> str:
        kind = KIND_WORDS[Feedback.from_label(row["feedback"])]
        newer = row["newer"]
        place = "the newest event" if not newer else f"{count(newer, 'event')} before the newest"
        sign = 1 if row["effect"] > 0 else -1
        largest = max(self.terms, key=lambda name: sign * row[name])
        return (
            f"{_titled(row['item'], row.get('title'))} ({kind}, {place}): {row['effect']:+.3f}, "
            f"most of it from {_name(largest)} ({row[largest]:+.3f})"
        )


def explain(
    model: Recommender,
    history: Interactions,
    user: int,
    items: np.ndarray,
    request: int,
    device: str = "cpu",
    titles: Titles | None = None,
    most_events: int | None = None,
) -> list[Explanation]:
    """Explains scores by leaving out the user's events one at a time.

        effect_j = score given all events - score given all events but j

    This is the exact effect of an event on the score, in every term. Effects need not sum to the
    score: two similar events may each be enough.

    Args:
        model: The model; other users' events must have no effect on a user's scores.
        history: All events that the model uses.
        user: The user's index, with at least one event.
        items: Indices of the items to explain, int64 ``[N]``.
        request: Time of the request, in the history's unit.
        device: Where to compute.
        titles: Titles of the items; None: they have none.
        most_events: Newest events that are left out one by one; None: `MOST_EVENTS`.

    Raises:
        ValueError: If the model depends on other users' events or has an embedding per user, or
            the user has no event.
    """
    if not can_explain(model):
        raise ValueError(
            "this model's scores depend on more than the user's own events, so leaving one out "
            "does not explain them; models without graph.user_embeddings and with graph.conv "
            "'sum' or 'none' can be explained"
        )
    own = history.of_users(np.array([user]))
    events = EventSequences.build(own)
    first = events.offsets[user]
    length = int(events.lengths[user])
    if not length:
        raise ValueError(
            f"user {plain(history.users.lookup(np.array([user]))[0])!r} has no event to explain by"
        )
    rows = slice(first, first + length)
    number = min(length, MOST_EVENTS if most_events is None else most_events)
    without = length - 1 - np.arange(number)  # places, the newest first
    terms, liked = _terms(model, own, events, rows, without, items, request, device)
    item_ids = history.items.lookup(items)
    event_ids = history.items.lookup(events.item[rows][without])
    feedback = [Feedback(kind).label for kind in events.feedback[rows][without]]
    user_id = history.users.lookup(np.array([user]))[0]
    explanations = []
    for column, item in enumerate(item_ids):
        effects = {name: term[0, column] - term[1:, column] for name, term in terms.items()}
        frame = pd.DataFrame(
            {
                "item": event_ids,
                "feedback": feedback,
                "newer": np.arange(number),
                "effect": sum(effects.values()),
                **effects,
            }
        )
        if titles is not None:
            frame = titles.add_to(frame)
        order = np.argsort(-frame["effect"].abs().to_numpy(), kind="stable")
        whole = {name: float(term[0, column]) for name, term in terms.items()}
        explanations.append(
            Explanation(
                user_id,
                item,
                sum(whole.values()),
                whole,
                None if liked is None else float(liked[column]),
                frame.iloc[order].reset_index(drop=True),
                None if titles is None else titles.of([item])[0],
            )
        )
    return explanations


def can_explain(model: Recommender) -> bool:
    """Whether a user's scores depend on the user's own events alone."""
    encoder = model.graph_encoder
    return encoder is None or not (encoder.needs_full_graph or encoder.num_rows is not None)


def _terms(
    model: Recommender,
    own: Interactions,
    events: EventSequences,
    rows: slice,
    without: np.ndarray,
    items: np.ndarray,
    request: int,
    device: str,
) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """The terms of the items given all events and then without each, float64 ``[1 + E, N]``."""
    length = rows.stop - rows.start
    keeps = np.ones((1 + len(without), length), dtype=bool)
    keeps[1 + np.arange(len(without)), without] = False
    copy, place = np.nonzero(keeps)  # a user per row, with that row's events
    copies = Interactions(
        copy,
        events.item[rows][place],
        events.feedback[rows][place],
        events.time[rows][place],
        Vocabulary(range(len(keeps))),
        own.items,
        own.time_unit,
    )
    requests = np.full(len(keeps), request)
    scorer = ModelScorer(model, copies, device, requests=requests)
    chosen = torch.from_numpy(items)
    parts = [
        [None if term is None else term[:, chosen].double().numpy() for term in scorer.terms(users)]
        for users in torch.arange(len(keeps)).split(users_at_a_time(own.num_items))
    ]
    terms = {
        name: np.concatenate([part[index] for part in parts])
        for index, name in enumerate(Terms._fields)
        if parts[0][index] is not None
    }
    liked = None
    if isinstance(model.polarity, ItemPolarity):
        liked = scorer.polarity(torch.tensor([0]))[0, chosen].numpy()
    return terms, liked


def _titled(item: Any, title: str | None) -> str:
    """An item as explanations show it: its title, if it has one, and its id."""
    return str(plain(item)) if title is None else f"{visible(title)} ({plain(item)})"


def _name(term: str) -> str:
    return term.replace("_", " ")
