"""Lists for users by their events, many at a time, from one trained model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from emorec.baselines import ItemPrior, MostPop
from emorec.data.interactions import TICKS_PER_DAY, Interactions
from emorec.data.sequences import EventSequences
from emorec.data.vocabulary import Vocabulary
from emorec.inference.explain import Explanation, can_explain, explain
from emorec.inference.ranking import ModelScorer
from emorec.inference.similar import By, similar_items
from emorec.nn.polarity import ItemPolarity
from emorec.recommender import EmoRec
from emorec.texts import plain

__all__ = ["NOTHING", "Ask", "History", "Listed", "Ranker"]

US_PER_DAY = TICKS_PER_DAY["us"]
_LEAST_TO_DIVIDE_BY = 1e-6  # smaller aversions leave too few digits of float32


@dataclass(frozen=True)
class History:
    """A user's events with items that the model knows, oldest first.

    Attributes:
        item: Item indices, int64 ``[N]``.
        feedback: Kinds of feedback, int8 ``[N]``.
        time_us: Microseconds since 1970, int64 ``[N]``.
    """

    item: np.ndarray
    feedback: np.ndarray
    time_us: np.ndarray

    @classmethod
    def of(cls, item: Any, feedback: Any, time_us: Any) -> History:
        """Puts events in order; equal times keep theirs."""
        order = np.argsort(np.asarray(time_us, dtype=np.int64), kind="stable")
        return cls(
            np.asarray(item, dtype=np.int64)[order],
            np.asarray(feedback, dtype=np.int8)[order],
            np.asarray(time_us, dtype=np.int64)[order],
        )

    def __len__(self) -> int:
        return len(self.item)


NOTHING = History.of([], [], [])
"""The history of somebody new."""


@dataclass(frozen=True)
class Ask:
    """What somebody asks for.

    Attributes:
        history: The user's events; without any, the list is that of the most popular items.
        k: Length of the list.
        aversion: In place of the run's; None: the run's.
        candidates: Indices of the only items that may be listed; None: all.
        exclude: Indices of items that may not be listed.
        allow_seen: Whether the list may hold items of the history; None: as the run's
            ``evaluation.seen`` says.
    """

    history: History
    k: int = 10
    aversion: float | None = None
    candidates: np.ndarray | None = None
    exclude: np.ndarray | None = None
    allow_seen: bool | None = None

    @property
    def options(self) -> tuple[Any, ...]:
        """What is asked apart from the history, to compare and to look up by."""
        chosen = (
            None if some is None else some.tobytes() for some in (self.candidates, self.exclude)
        )
        return (self.k, self.aversion, self.allow_seen, *chosen)


@dataclass(frozen=True)
class Listed:
    """A list, best first.

    Attributes:
        item: Item indices.
        score: What they are ranked by; None if the items are the most popular ones.
        liked: P(liked) of each; None if the model does not predict it.
        source: "model" or "popular".
    """

    item: list[int]
    score: list[float] | None
    liked: list[float] | None
    source: str


class Ranker:
    """Ranks the catalogue by a trained model. One thread at a time may use it.

    Args:
        recommender: A fitted recommender whose scores depend on the user's own events alone.

    Attributes:
        items: The items, by index.
        named: The own id and the title of each item, by index.
        is_timeless: Whether lists depend on the order and times of events alone, and not on the
            time of the request.

    Raises:
        ValueError: If the scores depend on more.
    """

    def __init__(self, recommender: EmoRec) -> None:
        self.recommender, self.model = recommender, recommender.model
        if not can_explain(self.model):
            raise ValueError(
                f"the preset {recommender.config.preset!r} cannot be served: its scores depend on "
                "more than the user's own events; models without graph.user_embeddings and with "
                "graph.conv 'sum' or 'none' can be"
            )
        log = recommender.split.log
        self.items = log.items
        titles = recommender.titles
        self.named = [
            {"item": each, "title": titles.get(each)} for each in map(plain, log.items.ids)
        ]
        self._index = {str(each): place for place, each in enumerate(log.items.ids)}
        self._aversion = self.model.aversion
        self._seen = recommender.config.evaluation.seen == "include"
        self._popular = MostPop().fit(log).popularity
        self._prior = ItemPrior().fit(log).mean
        self._has_liked = isinstance(self.model.polarity, ItemPolarity)
        self._log = EventSequences.build(log)
        encoder = self.model.sequence_encoder
        self.is_timeless = not (encoder is not None and recommender.config.sequence.request_time)
        self._users = {str(each): place for place, each in enumerate(log.users.ids)}

    def index_of(self, items: Sequence[str]) -> np.ndarray:
        """Indices of items by their ids as text, int64 ``[N]``; -1 where unknown."""
        return np.array([self._index.get(item, -1) for item in items], dtype=np.int64)

    def history_in_log(self, user: str) -> History:
        """The events of a user of the run's log; none for another user."""
        place = self._users.get(user)
        if place is None:
            return History.of([], [], [])
        rows = slice(self._log.offsets[place], self._log.offsets[place + 1])
        scale = US_PER_DAY // self._log.ticks_per_day if self._log.ticks_per_day > 1 else 1
        if self._log.ticks_per_day > US_PER_DAY:
            time_us = self._log.time[rows] // (self._log.ticks_per_day // US_PER_DAY)
        else:
            time_us = self._log.time[rows] * scale
        return History(self._log.item[rows], self._log.feedback[rows], time_us)

    def most_recent_users(self, most: int) -> list[str]:
        """The users of the run's log with the newest events, the newest first."""
        some = np.flatnonzero(np.diff(self._log.offsets))
        newest = self._log.time[self._log.offsets[some + 1] - 1]
        order = some[np.argsort(-newest, kind="stable")][:most]
        return [str(each) for each in self.recommender.split.log.users.lookup(order)]

    def rank(self, asks: Sequence[Ask]) -> list[Listed]:
        """The lists, in the order asked for; those of one aversion are computed together."""
        found: dict[int, Listed] = {}
        groups: dict[float, list[int]] = {}
        for place, ask in enumerate(asks):
            if len(ask.history):
                aversion = self._aversion if ask.aversion is None else ask.aversion
                groups.setdefault(aversion, []).append(place)
            else:
                found[place] = self._most_popular(ask)
        for aversion, places in groups.items():
            lists = self._by_model([asks[place] for place in places], aversion)
            found.update(zip(places, lists, strict=True))
        return [found[place] for place in range(len(asks))]

    def similar(self, item: int, k: int, by: By) -> tuple[list[int], list[float]]:
        """The items most similar to one, and their similarities."""
        topk = similar_items(self.model, np.array([item]), k, by)
        kept = topk.items[0] >= 0
        return topk.items[0][kept].tolist(), topk.scores[0][kept].tolist()

    def explain(self, user: str, history: History, item: int) -> Explanation:
        """Which events raised or lowered an item."""
        log = self._interactions([history], [user])
        (found,) = explain(
            self.model,
            log,
            0,
            np.array([item]),
            int(history.time_us[-1]),
            self.recommender.config.training.device,
            self.recommender.items_for(log.items).titles,
        )
        return found

    def _by_model(self, asks: list[Ask], aversion: float) -> list[Listed]:
        log = self._interactions([ask.history for ask in asks])
        self.model.aversion = aversion
        try:
            device = self.recommender.config.training.device
            scorer = ModelScorer(self.model, log, device, requests=self._requests(asks))
            users = torch.arange(len(asks))
            terms = scorer.terms(users)
            liked = None
            if self._has_liked and terms.liked is not None and aversion > _LEAST_TO_DIVIDE_BY:
                liked = (terms.liked / aversion).exp()
            elif self._has_liked:
                liked = scorer.polarity(users)
        finally:
            self.model.aversion = self._aversion
        total = terms.total().clone()  # of a single term it is a tensor that may not be changed
        return [
            self._listed(ask, total[row], None if liked is None else liked[row], "model")
            for row, ask in enumerate(asks)
        ]

    def _requests(self, asks: list[Ask]) -> np.ndarray | None:
        """The time of the lists, which is now, for a model that depends on it."""
        if self.is_timeless:
            return None
        last = np.array([ask.history.time_us[-1] for ask in asks])
        return np.maximum(last, time.time_ns() // 1000)

    def _most_popular(self, ask: Ask) -> Listed:
        prior = self._prior if self._has_liked else None
        return self._listed(ask, self._popular.clone(), prior, "popular")

    def _listed(self, ask: Ask, scores: Tensor, liked: Tensor | None, source: str) -> Listed:
        if ask.candidates is not None:
            kept = torch.full_like(scores, -torch.inf)
            chosen = torch.from_numpy(ask.candidates)
            kept[chosen] = scores[chosen]
            scores = kept
        if ask.exclude is not None:
            scores[torch.from_numpy(ask.exclude)] = -torch.inf
        if not (self._seen if ask.allow_seen is None else ask.allow_seen):
            scores[torch.from_numpy(ask.history.item)] = -torch.inf
        best = scores.topk(min(ask.k, len(scores)))
        kept = best.values > -torch.inf
        items = best.indices[kept]
        return Listed(
            items.tolist(),
            best.values[kept].tolist() if source == "model" else None,
            None if liked is None else liked[items].tolist(),
            source,
        )

    def _interactions(
        self, histories: list[History], users: Sequence[str] | None = None
    ) -> Interactions:
        return Interactions(
            np.repeat(np.arange(len(histories)), [len(each) for each in histories]),
            np.concatenate([each.item for each in histories]),
            np.concatenate([each.feedback for each in histories]),
            np.concatenate([each.time_us for each in histories]),
            Vocabulary(range(len(histories)) if users is None else users),
            self.items,
            "us",
        )
