"""From scores to top-k lists, and from top-k lists to metrics per user."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import torch
from scipy import sparse

from emorec.data.feedback import Feedback
from emorec.data.interactions import Interactions
from emorec.evaluation import dislikes as polarity
from emorec.evaluation import metrics
from emorec.evaluation.held_out import HeldOut
from emorec.evaluation.scores import (
    Scorer,
    as_user_indices,
    scores_in_blocks,
    users_at_a_time,
)

__all__ = [
    "LOWER_IS_BETTER",
    "CandidatesOf",
    "Evaluation",
    "Scorer",
    "SeenItems",
    "Selection",
    "TopK",
    "evaluate",
    "excluded_items",
    "recommend_top_k",
    "seen_matrix",
]

SeenItems = Literal["exclude", "include"]
"""Whether lists may hold items that their user has seen."""

CandidatesOf = Callable[[slice], torch.Tensor]
"""Places in ``users`` -> the items allowed in their lists, bool ``[B, num_items]``."""

LOWER_IS_BETTER = frozenset(
    {"recall_dislikes", "ndcg_dislikes", "dislike_rate", "ndcl", "disliked_share"}
)
"""Figures of `Evaluation.summary` that a good recommender keeps low."""

_METRICS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "recall": metrics.recall,
    "ndcg": metrics.ndcg,
    "map": metrics.average_precision,
    "precision": metrics.precision,
    "hit_rate": metrics.hit_rate,
    "mrr": metrics.reciprocal_rank,
}
_KINDS = {
    "any": list(Feedback),
    "likes": [kind for kind in Feedback if kind.is_positive],
    "dislikes": [kind for kind in Feedback if not kind.is_positive],
}


_NO_ROWS = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class TopK:
    """The k best items of each user, best first.

    Attributes:
        items: Item indices, int64 ``[U, k]``; -1 past the last candidate of a user.
        scores: Their scores, float32 ``[U, k]``; -inf where ``items`` is -1.
    """

    items: torch.Tensor
    scores: torch.Tensor


Selection = Literal["ndcg", "ndcg_likes", "ndcg_mean"]
"""What choices are made by, see `Evaluation.score`."""


@dataclass(frozen=True)
class Evaluation:
    """Metrics of each user's top-k list against the hold-out.

    Attributes:
        k: Length of the lists.
        per_user: One row per user (index: user index), float64, NaN where the user has no item of
            the kind that a column is about. The columns are

            * ``<metric>_<relevance>`` for the metrics recall, ndcg, map, precision, hit_rate and
              mrr and the relevances "any" (every held-out item) and "likes" (those with positive
              feedback);
            * ``recall_dislikes``, also known as NegRecall, and ``ndcg_dislikes``;
            * ``delta_recall`` and ``delta_ndcg``, that of likes minus that of dislikes, in
              [-1, 1], for users who have both (dRecall and dNDCG of V. Ivanova et al., RecSys
              2025, arXiv:2508.14786);
            * ``dislike_rate``, ``ndcl`` and ``signed_ndcg``, see `emorec.evaluation.dislikes`;
            * the counts ``hits_any``, ``hits_likes`` and ``hits_dislikes``.
    """

    k: int
    per_user: pd.DataFrame

    def summary(self) -> dict[str, float]:
        """One number per column, and what a mean hides.

        Returns:
            Means of the metric columns over the users that have a value (NaN when none has);
            totals of the ``hits_*`` columns; ``disliked_share``, the dislikes hit over all
            held-out items hit, pooled over users (NaN when nothing was hit); ``num_users``; and
            ``left_out_any``, ``left_out_likes``, ``left_out_dislikes``, the users without an item
            of that relevance, and ``left_out_both``, those without a like or without a dislike.
        """
        is_count = self.per_user.columns.str.startswith("hits_")
        means = self.per_user.loc[:, ~is_count].mean()
        totals = self.per_user.loc[:, is_count].sum()
        hits = totals["hits_any"]
        left_out = {
            name: int(self.per_user[column].isna().sum())
            for name, column in (
                ("left_out_any", "recall_any"),
                ("left_out_likes", "recall_likes"),
                ("left_out_dislikes", "recall_dislikes"),
                ("left_out_both", "delta_recall"),
            )
        }
        return {
            **{str(name): float(value) for name, value in means.items()},
            **{str(name): round(value) for name, value in totals.items()},
            "disliked_share": float(totals["hits_dislikes"] / hits) if hits else float("nan"),
            "num_users": len(self.per_user),
            **left_out,
        }

    def score(self, select: Selection) -> float:
        """One number to choose by.

        Args:
            select: "ndcg": NDCG of all held-out items; "ndcg_likes": of likes; "ndcg_mean": the
                mean of both, with 0 for likes where none is held out.

        Returns:
            The mean over users; NaN for "ndcg_likes" where none is held out.
        """
        every, likes = (float(self.per_user[f"ndcg_{name}"].mean()) for name in ("any", "likes"))
        if select == "ndcg_mean":
            return (every + (0.0 if np.isnan(likes) else likes)) / 2
        return every if select == "ndcg" else likes


def seen_matrix(interactions: Interactions) -> sparse.csr_matrix:
    """Who interacted with what, whatever the feedback: ones in a CSR ``[num_users, num_items]``."""
    matrix = sparse.csr_matrix(
        (np.ones(len(interactions), np.float32), (interactions.user, interactions.item)),
        shape=(interactions.num_users, interactions.num_items),
    )
    matrix.sum_duplicates()
    matrix.data[:] = 1
    return matrix


def excluded_items(interactions: Interactions, seen: SeenItems) -> sparse.csr_matrix:
    """The items that no list of their user may hold, as `seen_matrix`; none if ``seen`` allows."""
    return seen_matrix(interactions if seen == "exclude" else interactions.select(_NO_ROWS))


@torch.no_grad()
def recommend_top_k(
    scorer: Scorer,
    users: torch.Tensor | np.ndarray,
    seen: Interactions | sparse.csr_matrix,
    k: int,
    candidates: torch.Tensor | np.ndarray | CandidatesOf | None = None,
    chunk_size: int | None = None,
    done: Callable[[int], object] = lambda users: None,
) -> TopK:
    """The k best unseen candidates of each user, exactly and reproducibly.

    Seen items and non-candidates leave before the best k are taken. Items of equal score are
    ranked by lower item index, so that neither the chunking nor the device decides.

    Args:
        scorer: Scores every item for a batch of users. Lists are ranked in its own precision.
            A `BlockScorer` scores large catalogues in blocks.
        users: User indices, int64 ``[U]``, in any order; they may be repeated.
        seen: Interactions whose items are not recommended again to their user, or their
            `seen_matrix`, better built once if there are many calls. It fixes the number of items.
        k: Length of the lists.
        candidates: Items allowed in the lists, bool ``[num_items]``, or a function that returns
            them for some users, see `CandidatesOf`; None allows all.
        chunk_size: Users scored at a time; memory grows with ``chunk_size * num_items``. None: see
            `emorec.evaluation.scores.users_at_a_time`.
        done: Called after each chunk with the number of its users.

    Returns:
        Lists on the CPU, row i for ``users[i]``.

    Raises:
        ValueError: If ``k`` or ``chunk_size`` is below 1, a user is out of range, ``candidates``
            or the scores have the wrong shape or type, or a score is NaN or infinite.
    """
    matrix = seen_matrix(seen) if isinstance(seen, Interactions) else seen
    num_users, num_items = matrix.shape
    user_index = as_user_indices(users, num_users)
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    shared = None
    if candidates is not None and not callable(candidates):
        shared = ~_as_mask(candidates, num_items)[None]
    if callable(candidates) and chunk_size is None:
        chunk_size = users_at_a_time(num_items)  # of each one there is a mask of all items

    items = torch.full((len(user_index), k), -1, dtype=torch.int64)
    scores = torch.full((len(user_index), k), -torch.inf, dtype=torch.float32)
    for chunk, blocks in scores_in_blocks(scorer, user_index, num_items, chunk_size):
        chunk_seen, excluded = matrix[user_index[chunk]], shared
        if callable(candidates):
            shape = chunk.stop - chunk.start, num_items
            excluded = ~_as_mask(candidates(chunk), *shape)
        best: tuple[torch.Tensor, torch.Tensor] | None = None
        for start, found in blocks:
            block = slice(start, start + found.shape[1])
            mask = None if excluded is None else excluded[:, block]
            whole = chunk_seen if found.shape[1] == num_items else chunk_seen[:, block]
            block_items, block_scores = _top_k(_without(found, whole, mask), min(k, found.shape[1]))
            best = _best_of_both(best, (block_items + start, block_scores), k)
        assert best is not None  # of an empty catalogue there is a block, too
        width = best[0].shape[1]
        scores[chunk, :width] = best[1].float().cpu()
        items[chunk, :width] = best[0].masked_fill(best[1] == -torch.inf, -1).cpu()
        done(chunk.stop - chunk.start)
    return TopK(items, scores)


def _without(
    scores: torch.Tensor, seen: sparse.csr_matrix, excluded: torch.Tensor | None
) -> torch.Tensor:
    """Scores in which excluded and seen items have -inf."""
    scores, device = scores.clone(), scores.device  # the scorer may hand out its own memory
    if excluded is not None:
        scores.masked_fill_(excluded.to(device), -torch.inf)
    rows = np.repeat(np.arange(len(scores)), np.diff(seen.indptr))
    scores[
        torch.from_numpy(rows).to(device),
        torch.from_numpy(seen.indices.astype(np.int64)).to(device),
    ] = -torch.inf
    return scores


def _best_of_both(
    earlier: tuple[torch.Tensor, torch.Tensor] | None,
    later: tuple[torch.Tensor, torch.Tensor],
    k: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k best of two lists of items and scores, of which the first has the lower indices."""
    if earlier is None:
        return later
    items, scores = (torch.cat(both, dim=1) for both in zip(earlier, later, strict=True))
    order = torch.sort(scores, dim=1, descending=True, stable=True).indices[:, :k]
    return items.gather(1, order), scores.gather(1, order)


def evaluate(
    topk: TopK, users: torch.Tensor | np.ndarray, test: Interactions, k: int
) -> Evaluation:
    """Compares top-k lists with held-out interactions.

    A pair of user and item that occurs more than once in the hold-out is one held-out item, with
    the feedback of its last event (by time; rows of equal time in the order of the log): that is
    how the user ended up feeling about it.

    Args:
        topk: Lists of at least k items.
        users: Users of the lists, int64 ``[U]``, distinct.
        test: Held-out interactions; those of other users are ignored.
        k: How many items of each list count.

    Returns:
        Values per user, in the order of ``users``.

    Raises:
        ValueError: If the lists are shorter than k or not one per user, a user is out of range or
            occurs twice, or a list repeats an item or holds one that is out of range.
    """
    user_index = as_user_indices(users, test.num_users)
    if len(np.unique(user_index)) != len(user_index):
        raise ValueError("users must be distinct: each has one list")
    if len(topk.items) != len(user_index):
        raise ValueError(f"got {len(topk.items)} lists for {len(user_index)} users")
    if not 1 <= k <= topk.items.shape[1]:
        raise ValueError(f"k must be in 1 .. {topk.items.shape[1]} (the lists' length), got {k}")
    items = topk.items[:, :k].cpu().numpy()
    _check_lists(items, test.num_items)
    everything = HeldOut.of(test)
    listed = torch.from_numpy(everything.feedback_on(user_index, items))  # [U, k]
    held_out = torch.from_numpy(everything.counts()[user_index])  # [U, 4]

    columns: dict[str, torch.Tensor] = {}
    for relevance, kinds in _KINDS.items():
        hits = torch.isin(listed, torch.tensor(kinds))
        num_relevant = held_out[:, kinds].sum(dim=1)
        for name in ("recall", "ndcg") if relevance == "dislikes" else _METRICS:
            columns[f"{name}_{relevance}"] = _METRICS[name](hits, num_relevant)
        columns[f"hits_{relevance}"] = hits.sum(dim=1).double()
    for name in ("recall", "ndcg"):
        columns[f"delta_{name}"] = columns[f"{name}_likes"] - columns[f"{name}_dislikes"]
    columns["dislike_rate"] = polarity.dislike_rate(listed, held_out)
    columns["ndcl"] = polarity.ndcl(listed, held_out)
    columns["signed_ndcg"] = polarity.signed_ndcg(listed, held_out)
    frame = pd.DataFrame({name: values.numpy() for name, values in columns.items()})
    return Evaluation(k, frame.set_index(pd.Index(user_index, name="user")))


def _top_k(scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Top k by score, then by lower index."""
    values, picked = scores.topk(min(k + 1, scores.shape[1]), dim=1)
    if values.shape[1] > k:
        # topk picks freely among items that tie at the boundary; only those rows are redone.
        last = values[:, k - 1]
        tied = ((last == values[:, k]) & (last > -torch.inf)).nonzero().squeeze(1)
        picked = picked[:, :k]
        if len(tied):
            picked[tied] = _lowest_indices_at_boundary(scores[tied], last[tied, None], k)
    picked = picked.sort(dim=1).values
    best, order = scores.gather(1, picked).sort(dim=1, descending=True, stable=True)
    return picked.gather(1, order), best


def _lowest_indices_at_boundary(
    scores: torch.Tensor, boundary: torch.Tensor, k: int
) -> torch.Tensor:
    """The k items above, or first at, each row's k-th best score ``boundary`` ``[B, 1]``."""
    above, at = scores > boundary, scores == boundary
    room = k - above.sum(dim=1, keepdim=True)
    chosen = above | (at & (at.cumsum(dim=1) <= room))
    return chosen.nonzero()[:, 1].view(len(scores), k)


def _check_lists(items: np.ndarray, num_items: int) -> None:
    if items.size and (items.min() < -1 or items.max() >= num_items):
        wrong = items[(items < -1) | (items >= num_items)][0]
        raise ValueError(f"a list holds item {wrong}, must be in 0 .. {num_items - 1}, or -1")
    ordered = np.sort(items, axis=1)
    repeated = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    if repeated.any():
        row = int(np.flatnonzero(repeated.any(axis=1))[0])
        raise ValueError(f"list {row} holds an item twice")


def _as_mask(candidates: torch.Tensor | np.ndarray, *shape: int) -> torch.Tensor:
    mask = torch.as_tensor(candidates)
    if mask.dtype != torch.bool or mask.shape != shape:
        raise ValueError(
            f"candidates must be bool {list(shape)}, got {mask.dtype} {list(mask.shape)}"
        )
    return mask
