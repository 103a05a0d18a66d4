"""Recommendation lists for users by their own ids, from a model or by popularity."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from torch import Tensor
from tqdm import tqdm

from emorec.baselines import MostPop
from emorec.data.vocabulary import Vocabulary
from emorec.evaluation.scores import Scorer, scores_in_chunks, users_at_a_time
from emorec.evaluation.top_k import SeenItems, TopK, excluded_items, recommend_top_k
from emorec.inference.diversity import POOL, diversified, vectors_of_items
from emorec.inference.filters import Filters
from emorec.inference.ranking import ModelScorer
from emorec.inference.request import Request

__all__ = ["ListMaker"]


class ListMaker:
    """Makes the lists of a request, in blocks of users.

    Users whom the model does not serve get the most popular items.

    Args:
        request: Users and events.
        k: Length of the lists; shorter where no more items are left.
        seen: Whether lists may hold items that their user has seen up to the request.
        filters: The items that lists may hold; None: all items.
        min_liked: Least P(liked) of a listed item, in [0, 1]; needs a model that predicts it.
        diversity: From 0, the best items, to 1, see `emorec.inference.diversity`; more than 0 needs
            a model with vectors of items.

    Attributes:
        columns: ``user, rank, item, score, liked, source``; without ``liked`` if the model does not
            predict the polarity of items. ``score`` is the value that the model ranks by, float32;
            it is missing where ``source`` is "popular".
    """

    def __init__(
        self,
        request: Request,
        k: int,
        seen: SeenItems = "exclude",
        filters: Filters | None = None,
        min_liked: float | None = None,
        diversity: float = 0.0,
    ) -> None:
        self._users, self._is_served = request.users, request.is_served
        self._catalogue, self._k = request.known.items, min(int(k), request.known.num_items)
        self._filters, self._min_liked, self._diversity = filters, min_liked, diversity
        self._vectors = vectors_of_items(request.model) if diversity else None
        liked = ["liked"] if request.predicts_liked else []
        self.columns = ["user", "rank", "item", "score", *liked, "source"]
        self._model = self._popular = None
        if request.scorer is not None:
            self._model = _Source(
                "model",
                request.scorer,
                excluded_items(request.history, seen),
                request.scorer.polarity if liked else None,
                request.index,
            )
        if not request.is_served.all():
            num_users, num_items = request.known.num_users, request.known.num_items
            nobody = sparse.csr_matrix((1, num_items), dtype=np.float32)
            excluded = excluded_items(request.known_until, seen)
            self._popular = _Source(
                "popular",
                MostPop().fit(request.known),
                sparse.vstack([excluded, nobody], format="csr"),
                request.item_prior() if liked else None,
                np.where(request.index < 0, num_users, request.index),
            )

    def blocks(self, size: int, progress: bool = False) -> Iterator[pd.DataFrame]:
        """The lists of ``size`` users at a time, in the order of the request, see ``columns``.

        One block is in memory at a time.
        """
        total, places = int(self._is_served.sum()), np.arange(len(self._users))
        with tqdm(
            total=total, desc="lists", unit="user", leave=False, disable=not (progress and total)
        ) as bar:
            for start in range(0, len(places), size):
                yield self._lists(places[start : start + size], bar.update)

    def all(self, progress: bool = False) -> pd.DataFrame:
        """All lists."""
        if not self._users:
            return pd.DataFrame(columns=self.columns)
        return next(self.blocks(len(self._users), progress))

    def _lists(self, places: np.ndarray, done: Callable[[int], object]) -> pd.DataFrame:
        """The lists of users, by their places in the request."""
        served, others = places[self._is_served[places]], places[~self._is_served[places]]
        parts = []
        if len(served):
            assert self._model is not None
            parts.append(self._rows(self._model, served, done))
        if len(others):
            assert self._popular is not None
            parts.append(self._rows(self._popular, others, lambda users: None))
        columns = ["place", *self.columns[1:]]
        # A part without a row has no type of ids.
        lists = pd.concat([part for part in parts if len(part)] or parts[:1])[columns]
        lists = lists.sort_values(["place", "rank"], ignore_index=True)
        lists.insert(0, "user", [self._users[place] for place in lists.pop("place")])
        return lists

    def _rows(
        self, source: _Source, places: np.ndarray, done: Callable[[int], object]
    ) -> pd.DataFrame:
        users = source.row[places]

        def candidates(some: slice) -> Tensor:
            mask = None if self._filters is None else self._filters(places[some])
            if self._min_liked is not None:
                assert source.polarity is not None
                liked = source.polarity(torch.from_numpy(users[some])) >= self._min_liked
                mask = liked if mask is None else mask & liked
            assert mask is not None
            return mask

        is_filtered = self._filters is not None or self._min_liked is not None
        best = self._k if self._vectors is None else min(POOL * self._k, len(self._catalogue))
        topk = recommend_top_k(
            source.scorer,
            users,
            source.seen,
            best,
            candidates if is_filtered else None,
            done=done,
        )
        if self._vectors is not None:
            topk = diversified(topk, self._vectors, self._k, self._diversity)
        predicted = None
        if source.polarity is not None:
            predicted = _predicted(source, users, topk, len(self._catalogue))
        return _frame(source.name, places, topk, predicted, self._catalogue)


@dataclass(frozen=True)
class _Source:
    """What lists are made from.

    Attributes:
        name: Name in the column ``source``.
        scorer: Scores every item for user indices.
        seen: Items that no list of their user may hold, CSR ``[U, I]``.
        polarity: Predicts P(liked) of every item for user indices; None: nothing does.
        row: Index of each user of the request in these, int64 ``[B]``.
    """

    name: str
    scorer: Scorer
    seen: sparse.csr_matrix
    polarity: Scorer | None
    row: np.ndarray


def _frame(
    source: str,
    places: np.ndarray,
    topk: TopK,
    predicted: np.ndarray | None,
    catalogue: Vocabulary,
) -> pd.DataFrame:
    """Lists as rows, for users at these places of the request."""
    row, column = np.nonzero(topk.items.numpy() >= 0)
    score = topk.scores.numpy()[row, column]
    frame = pd.DataFrame(
        {
            "place": places[row],
            "rank": column + 1,
            "item": catalogue.lookup(topk.items.numpy()[row, column]),
            # The number of events, which popular items are ranked by, is of another kind.
            "score": score if source == "model" else np.full_like(score, np.nan),
            "source": source,
        }
    )
    if predicted is not None:
        frame["liked"] = predicted
    return frame


def _predicted(source: _Source, users: np.ndarray, topk: TopK, num_items: int) -> np.ndarray:
    """P(liked) of the items in the lists of users, row by row; empty places are left out."""
    assert source.polarity is not None
    found, listed = torch.zeros(topk.items.shape), topk.items.clamp(min=0)
    if isinstance(source.scorer, ModelScorer):  # without the other items
        for some in torch.arange(len(users)).split(users_at_a_time(topk.items.shape[1])):
            found[some] = source.scorer.polarity(torch.from_numpy(users)[some], listed[some])
    else:
        for chunk, predicted in scores_in_chunks(source.polarity, users, num_items):
            found[chunk] = predicted.gather(1, listed[chunk])
    return found[topk.items >= 0].numpy()
