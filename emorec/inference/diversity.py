"""Diverse lists: items that are far from those above them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from emorec.evaluation.top_k import TopK
from emorec.nn.model import Recommender

__all__ = ["POOL", "diversified", "vectors_of_items"]

POOL = 10
"""Candidates per place of a list: the lists of ``k`` items come from the ``10 k`` best."""

_CANDIDATES_AT_ONCE = 2**16  # whose vectors are gathered


def vectors_of_items(model: Recommender) -> Tensor:
    """The vectors whose cosine says how near two items are, ``[I, D]`` on the CPU.

    They are the embeddings of the next item or, without these, the target vectors of the feedback
    sum.

    Raises:
        ValueError: If the model has neither.
    """
    if model.item_embedding is not None:
        return model.item_embedding.weight.detach().cpu()
    if model.feedback_sum is not None:
        return model.feedback_sum.target.weight.detach().cpu()
    raise ValueError(
        "diversity needs vectors of items: this model has no sequence encoder, and graph.conv is "
        "'none'; train one with --set graph.conv=sum"
    )


def diversified(pool: TopK, vectors: Tensor, k: int, diversity: float) -> TopK:
    """Chooses items one after the other by maximal marginal relevance.

        (1 - diversity) r_i - diversity max_j cos(v_i, v_j)

    The maximum is over the items ``j`` chosen already; for the first place it is 0, so that the
    best item comes first. ``r_i`` is the item's score, scaled linearly to 1 for the best and 0 for
    the worst item of the user's pool. At 0 lists are the first ``k`` of the pool; at 1 scores
    decide on the first place alone.

    Args:
        pool: The best items of each user, best first, ``[U, P]``.
        vectors: Vectors ``v`` of all items, ``[I, D]``.
        k: Length of the lists, at most ``P``.
        diversity: From 0 to 1.

    Returns:
        Lists ``[U, k]`` with the pool's scores, which do not fall from place to place any more.

    References:
        J. Carbonell, J. Goldstein: The Use of MMR, Diversity-Based Reranking for Reordering
        Documents and Producing Summaries, SIGIR 1998.
    """
    size = max(1, _CANDIDATES_AT_ONCE // pool.items.shape[1])
    parts = [
        _chosen(items, scores, vectors, k, diversity)
        for items, scores in zip(pool.items.split(size), pool.scores.split(size), strict=True)
    ]
    place = torch.cat(parts)  # [U, k]
    return TopK(pool.items.gather(1, place), pool.scores.gather(1, place))


def _chosen(items: Tensor, scores: Tensor, vectors: Tensor, k: int, diversity: float) -> Tensor:
    """Places in the pool, int64 ``[B, k]``; those of absent items last."""
    absent = items < 0
    worst = scores.masked_fill(absent, torch.inf).amin(1, keepdim=True)
    span = (scores[:, :1] - worst).clamp(min=torch.finfo(scores.dtype).tiny)
    relevance = ((scores - worst) / span).masked_fill(absent, -torch.inf)
    unit = F.normalize(vectors[items.clamp(min=0)], dim=2)  # [B, P, D]
    nearest = torch.zeros_like(scores)
    taken = torch.zeros_like(absent)
    places = []
    for number in range(k):
        value = (1 - diversity) * relevance - diversity * nearest
        value = value.masked_fill(absent, torch.finfo(value.dtype).min)
        place = value.masked_fill(taken, -torch.inf).argmax(1, keepdim=True)  # the first of ties
        taken.scatter_(1, place, True)
        chosen = unit.gather(1, place[..., None].expand(-1, -1, unit.shape[2]))  # [B, 1, D]
        cosine = (unit * chosen).sum(2)
        nearest = cosine if number == 0 else torch.maximum(nearest, cosine)
        places.append(place)
    return torch.cat(places, dim=1)
