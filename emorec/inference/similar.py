"""Similar items and similar users, by who shares them or by taste."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy import sparse
from torch import Tensor

from emorec.data.interactions import Interactions
from emorec.data.vocabulary import Vocabulary
from emorec.evaluation.scores import users_at_a_time
from emorec.evaluation.top_k import TopK, recommend_top_k
from emorec.inference.ranking import ModelScorer
from emorec.nn.feedback_paths import FeedbackPaths
from emorec.nn.model import Recommender
from emorec.nn.polarity import ItemPolarity

__all__ = ["By", "similar_frame", "similar_items", "similar_users"]

By = Literal["audience", "taste"]
"""Similar by the users or items shared, or by the feedback that is predicted."""


def similar_items(model: Recommender, items: np.ndarray, k: int, by: By = "audience") -> TopK:
    """The items most similar to each of some.

        audience    S_ij of the model's paths, else the cosine of target_i and target_j
        taste       the cosine of q_i and q_j

    ``S`` is counted: how many users two items share, and what one adds to the prediction of the
    other (`emorec.nn.feedback_paths`). The target vectors are those of the feedback sum
    (`emorec.nn.feedback_sum`), and ``q`` the item vectors of the polarity head
    (`emorec.nn.polarity`): items are similar by taste if who likes the one probably likes the
    other.

    Args:
        model: The model.
        items: Item indices, int64 ``[B]``.
        k: Length of the lists.
        by: What they are similar by.

    Returns:
        Lists without the item itself and without similarities of 0 or less. Of ``S`` the model
        holds as many per item as ``graph.paths``.

    Raises:
        ValueError: If the model has no such similarities.
    """
    _require(by)
    if by == "taste":
        return _nearest(_polarity(model).item.weight[:, 1:].detach().cpu(), items, k)
    if model.feedback_paths is not None:
        return _counted(model.feedback_paths, items, k)
    if model.feedback_sum is not None:
        return _nearest(model.feedback_sum.target.weight.detach().cpu(), items, k)
    raise ValueError(
        "by='audience' needs the feedback graph's counted or learned scores: this model has "
        "graph.paths=0, and graph.conv is not 'sum'; train one with --set graph.paths=100"
    )


def similar_users(
    model: Recommender,
    log: Interactions,
    users: np.ndarray,
    k: int,
    by: By = "audience",
    device: str = "cpu",
) -> TopK:
    """The users most similar to each of some, by the cosine of their vectors.

        audience    x_u, the user's vector in the feedback sum: users of similar items
        taste       p, the taste vector: users of similar predicted feedback

    Args:
        model: The model.
        log: The events that vectors depend on.
        users: User indices, int64 ``[B]``.
        k: Length of the lists.
        by: What they are similar by.
        device: Where to compute.

    Returns:
        Lists without the user itself, users without events, and similarities of 0 or less.

    Raises:
        ValueError: If the model has no such vectors.
    """
    _require(by)
    if by == "taste":
        _polarity(model)
    elif model.feedback_sum is None:
        raise ValueError(
            "by='audience' of users needs the feedback sum's vectors of users: graph.conv is not "
            "'sum'; train one with --set graph.conv=sum"
        )
    scorer = ModelScorer(model, log, device)
    parts = torch.arange(log.num_users).split(users_at_a_time(log.num_items))
    if by == "taste":
        every = torch.cat([scorer.taste(part)[:, 1:].cpu() for part in parts])  # not the mean
    else:
        every = torch.cat([scorer.graph_vectors(part).cpu() for part in parts])
    every[np.bincount(log.user, minlength=log.num_users) == 0] = 0
    return _nearest(every, users, k)


def similar_frame(what: str, ids: list[Any], topk: TopK, vocabulary: Vocabulary) -> pd.DataFrame:
    """Lists of similar items or users as rows.

    Args:
        what: Name of the first column: "item" or "user".
        ids: Whom the lists are of, ``B``.
        topk: The lists.
        vocabulary: Ids of what is listed.

    Returns:
        Columns ``item`` or ``user``, then ``rank, similar, similarity``.
    """
    row, column = np.nonzero(topk.items.numpy() >= 0)
    return pd.DataFrame(
        {
            what: [ids[place] for place in row],
            "rank": column + 1,
            "similar": vocabulary.lookup(topk.items.numpy()[row, column]),
            "similarity": topk.scores.numpy()[row, column],
        }
    )


def _require(by: str) -> None:
    if by not in get_args(By):
        raise ValueError(f"by must be one of {', '.join(map(repr, get_args(By)))}, got {by!r}")


def _polarity(model: Recommender) -> ItemPolarity:
    if not isinstance(model.polarity, ItemPolarity):
        raise ValueError(
            "by='taste' needs a model that predicts the polarity of items: model.polarity is not "
            "'item'"
        )
    return model.polarity


def _counted(paths: FeedbackPaths, items: np.ndarray, k: int) -> TopK:
    item, similarity = paths.item.cpu().long(), paths.similarity.cpu()

    def scorer(rows: Tensor) -> Tensor:
        # Places without a similar item hold 0, of whatever item: added, they change nothing.
        scores = similarity.new_zeros(len(rows), len(item))
        return scores.scatter_add_(1, item[rows], similarity[rows])

    return _positive(scorer, items, len(item), k)


def _nearest(vectors: Tensor, rows: np.ndarray, k: int) -> TopK:
    """The rows of largest cosine to each of some; rows of zeros are similar to none."""
    unit = F.normalize(vectors.float(), dim=1)

    def scorer(rows: Tensor) -> Tensor:
        return (unit[rows] @ unit.T).clamp(-1, 1)

    return _positive(scorer, rows, len(unit), k)


def _positive(scorer: Callable[[Tensor], Tensor], rows: np.ndarray, size: int, k: int) -> TopK:
    """The best of each row with a score above 0, without the row itself."""
    itself = sparse.identity(size, dtype=np.float32, format="csr")
    topk = recommend_top_k(scorer, rows, itself, min(k, size))
    absent = topk.scores <= 0
    return TopK(topk.items.masked_fill(absent, -1), topk.scores.masked_fill(absent, -torch.inf))
