"""Recommendation lists for users by their own ids, from a model or by popularity."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from tqdm import tqdm

from emorec.baselines import ItemPrior, MostPop
from emorec.data.interactions import Interactions
from emorec.data.requests import until
from emorec.evaluation.scores import Scorer, scores_in_chunks
from emorec.evaluation.top_k import SeenItems, TopK, excluded_items, recommend_top_k
from emorec.inference.ranking import ModelScorer
from emorec.nn.model import Recommender
from emorec.nn.polarity import ItemPolarity
from emorec.texts import plain

__all__ = ["make_lists"]


def make_lists(
    model: Recommender,
    users: list[Any],
    history: Interactions,
    known: Interactions,
    requests: np.ndarray,
    k: int,
    device: str,
    seen: SeenItems = "exclude",
    progress: bool = False,
) -> pd.DataFrame:
    """The k best items for each user.

    Args:
        model: The model.
        users: The users' own ids, in the order of the lists; one may occur again.
        history: The events that the model uses; users with an event up to the time of their request
            get lists of the model.
        known: The history and, possibly, events of other users, who come after those of the history
            in its vocabulary. They, unknown ids and users without such an event get the most
            popular items.
        requests: Time of each user's request, of all users in ``known``, int64 ``[U]``. The users'
            later events are left out.
        k: Length of the lists; shorter where the catalogue ends.
        device: Where to compute.
        seen: Whether lists may hold items that their user has in ``known``, up to the request.
        progress: Whether to show a progress bar.

    Returns:
        Columns ``user, rank, item, score, liked, source``; without ``liked`` if the model does not
        predict the polarity of items. ``score`` is the value that the model ranks by; it is missing
        where ``source`` is "popular".

    Warns:
        UserWarning: If users have no events in the history up to their request.
    """
    index, k = known.users.indices(users), min(int(k), known.num_items)
    in_history = (index >= 0) & (index < history.num_users)
    encoder = model.graph_encoder
    if encoder is None or not encoder.needs_full_graph:
        history = history.of_users(index[in_history])  # other users have no effect on this model
    history = until(history, requests)
    is_known = in_history & np.isin(index, history.user)
    served, unknown = np.flatnonzero(is_known), np.flatnonzero(~is_known)
    predicts_liked = isinstance(model.polarity, ItemPolarity)
    parts = []
    if len(served):
        scorer = ModelScorer(model, history, device, requests=requests)
        bar = tqdm(total=len(served), desc="lists", unit="user", leave=False, disable=not progress)
        with bar:

            def counted(users: torch.Tensor) -> torch.Tensor:
                scores = scorer(users)
                bar.update(len(users))
                return scores

            topk = recommend_top_k(counted, index[served], excluded_items(history, seen), k)
        polarity = scorer.polarity if predicts_liked else None
        parts.append(_rows(served, index[served], topk, "model", polarity, history))
    if len(unknown):
        first = plain(users[unknown[0]])
        whom, they = f"user {first!r}", "who gets"
        if len(users) > 1:
            whom, they = f"{len(unknown):,} of {len(users):,} users, such as {first!r}", "who get"
        when = " up to the time of the request" if in_history[unknown].any() else ""
        warnings.warn(
            f"the model has no events of {whom}{when}, {they} the most popular items", stacklevel=3
        )
        nobody = sparse.csr_matrix((1, known.num_items), dtype=np.float32)
        excluded = excluded_items(until(known, requests), seen)
        excluded = sparse.vstack([excluded, nobody], format="csr")
        row = np.where(index[unknown] < 0, known.num_users, index[unknown])
        topk = recommend_top_k(MostPop().fit(known), row, excluded, k)
        polarity = ItemPrior().fit(known) if predicts_liked else None
        parts.append(_rows(unknown, row, topk, "popular", polarity, known))
    columns = ["place", "rank", "item", "score", *(["liked"] if predicts_liked else []), "source"]
    lists = pd.concat(parts)[columns] if parts else pd.DataFrame(columns=columns)
    lists = lists.sort_values(["place", "rank"], ignore_index=True)
    lists.insert(0, "user", [users[place] for place in lists.pop("place")])
    return lists


def _rows(
    places: np.ndarray,
    users: np.ndarray,
    topk: TopK,
    source: str,
    polarity: Scorer | None,
    log: Interactions,
) -> pd.DataFrame:
    """Lists as rows, for users at these places of the request."""
    row, column = np.nonzero(topk.items.numpy() >= 0)
    frame = pd.DataFrame(
        {
            "place": places[row],
            "rank": column + 1,
            "item": log.items.lookup(topk.items.numpy()[row, column]),
            # The number of events, which popular items are ranked by, is of another kind.
            "score": topk.scores.numpy()[row, column] if source == "model" else np.nan,
            "source": source,
        }
    )
    if polarity is not None:
        frame["liked"] = _predicted(polarity, users, topk, log.num_items)
    return frame


def _predicted(predict: Scorer, users: np.ndarray, topk: TopK, num_items: int) -> np.ndarray:
    """Predictions for the items in lists, row by row; empty places are left out."""
    found = torch.zeros(topk.items.shape)
    for chunk, predicted in scores_in_chunks(predict, users, num_items):
        found[chunk] = predicted.gather(1, topk.items[chunk].clamp(min=0))
    return found[topk.items >= 0].numpy()
