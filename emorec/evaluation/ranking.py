"""From scores to top-k lists, and from top-k lists to metrics per user."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy import sparse

from emorec.data.interactions import Interactions
from emorec.evaluation import metrics

__all__ = ["Evaluation", "Scorer", "TopK", "evaluate", "recommend_top_k", "seen_matrix"]

Scorer = Callable[[torch.Tensor], torch.Tensor]
"""User indices, int64 ``[B]`` -> a finite score for every item, float ``[B, num_items]``."""

_METRICS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "recall": metrics.recall,
    "ndcg": metrics.ndcg,
    "map": metrics.average_precision,
    "precision": metrics.precision,
    "hit_rate": metrics.hit_rate,
    "mrr": metrics.reciprocal_rank,
}
_SCORES_PER_CHUNK = 2**24  # 64 MiB of float32


@dataclass(frozen=True)
class TopK:
    """The k best items of each user, best first.

    Attributes:
        items: Item indices, int64 ``[U, k]``; -1 past the last candidate of a user.
        scores: Their scores, float32 ``[U, k]``; -inf where ``items`` is -1.
    """

    items: torch.Tensor
    scores: torch.Tensor


@dataclass(frozen=True)
class Evaluation:
    """Metrics of each user's top-k list against the hold-out.

    Attributes:
        k: Length of the lists.
        per_user: One row per user (index: user index), float64 columns ``<metric>_<relevance>`` for
            the metrics recall, ndcg, map, precision, hit_rate and mrr and the relevances "any"
            (every held-out item) and "likes" (those with positive feedback); ``recall_dislikes``;
            and the counts ``hits_any``, ``hits_likes`` and ``hits_dislikes``. NaN where the user
            has no item of that relevance.
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
            of that relevance.
        """
        is_count = self.per_user.columns.str.startswith("hits_")
        means = self.per_user.loc[:, ~is_count].mean()
        totals = self.per_user.loc[:, is_count].sum()
        judged = totals["hits_any"]
        left_out = {
            f"left_out_{relevance}": int(self.per_user[f"recall_{relevance}"].isna().sum())
            for relevance in ("any", "likes", "dislikes")
        }
        return {
            **{str(name): float(value) for name, value in means.items()},
            **{str(name): int(value) for name, value in totals.items()},
            "disliked_share": float(totals["hits_dislikes"] / judged) if judged else float("nan"),
            "num_users": len(self.per_user),
            **left_out,
        }


def seen_matrix(interactions: Interactions) -> sparse.csr_matrix:
    """Who interacted with what, whatever the feedback: ones in a CSR ``[num_users, num_items]``."""
    matrix = sparse.csr_matrix(
        (np.ones(len(interactions), np.float32), (interactions.user, interactions.item)),
        shape=(interactions.num_users, interactions.num_items),
    )
    matrix.sum_duplicates()
    matrix.data[:] = 1
    return matrix


@torch.no_grad()
def recommend_top_k(
    scorer: Scorer,
    users: torch.Tensor | np.ndarray,
    seen: Interactions | sparse.csr_matrix,
    k: int,
    candidates: torch.Tensor | np.ndarray | None = None,
    chunk_size: int | None = None,
) -> TopK:
    """The k best unseen candidates of each user, exactly and reproducibly.

    Seen items and non-candidates leave before the best k are taken. Items of equal score are
    ranked by lower item index, so that neither the chunking nor the device decides.

    Args:
        scorer: Scores every item for a batch of users. Lists are ranked in its own precision.
        users: User indices, int64 ``[U]``, in any order.
        seen: Interactions whose items are not recommended again to their user, or their
            `seen_matrix`, better built once if there are many calls. It fixes the number of items.
        k: Length of the lists.
        candidates: Items allowed in the lists, bool ``[num_items]``; None allows all.
        chunk_size: Users scored at a time; memory grows with ``chunk_size * num_items``. None
            takes as many as make 16 million scores.

    Returns:
        Lists on the CPU, row i for ``users[i]``.

    Raises:
        ValueError: If ``k`` or ``chunk_size`` is below 1, a user is out of range, ``candidates``
            or the scores have the wrong shape or type, or a score is NaN or infinite.
    """
    matrix = seen_matrix(seen) if isinstance(seen, Interactions) else seen
    num_users, num_items = matrix.shape
    user_index = _as_indices(users, num_users)
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if chunk_size is None:
        chunk_size = max(1, _SCORES_PER_CHUNK // max(1, num_items))
    elif chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
    excluded = None if candidates is None else ~_as_mask(candidates, num_items)

    items = torch.full((len(user_index), k), -1, dtype=torch.int64)
    scores = torch.full((len(user_index), k), -torch.inf, dtype=torch.float32)
    for start in range(0, len(user_index), chunk_size):
        chunk = user_index[start : start + chunk_size]
        chunk_scores = scorer(torch.from_numpy(chunk))
        _check_scores(chunk_scores, chunk, num_items)
        chunk_scores = chunk_scores.clone()  # the scorer may hand out its own memory
        if excluded is not None:
            chunk_scores.masked_fill_(excluded.to(chunk_scores.device), -torch.inf)
        chunk_seen = matrix[chunk]
        rows = np.repeat(np.arange(len(chunk)), np.diff(chunk_seen.indptr))
        device = chunk_scores.device
        chunk_scores[
            torch.from_numpy(rows).to(device),
            torch.from_numpy(chunk_seen.indices.astype(np.int64)).to(device),
        ] = -torch.inf
        best_items, best_scores = _top_k(chunk_scores, min(k, num_items))
        width = best_items.shape[1]
        items[start : start + len(chunk), :width] = best_items.cpu()
        scores[start : start + len(chunk), :width] = best_scores.float().cpu()
    return TopK(items, scores)


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
    user_index = _as_indices(users, test.num_users)
    if len(np.unique(user_index)) != len(user_index):
        raise ValueError("users must be distinct: each has one list")
    if len(topk.items) != len(user_index):
        raise ValueError(f"got {len(topk.items)} lists for {len(user_index)} users")
    if not 1 <= k <= topk.items.shape[1]:
        raise ValueError(f"k must be in 1 .. {topk.items.shape[1]} (the lists' length), got {k}")
    pairs, liked = _held_out_pairs(test)
    owner = pairs // max(1, test.num_items)
    items = topk.items[:, :k].cpu().numpy()
    _check_lists(items, test.num_items)
    # -1 marks an empty place; as part of a key it would stand for another user's last item.
    keys = np.where(items >= 0, user_index[:, None] * test.num_items + items, -1)  # [U, k]
    place = np.searchsorted(pairs, keys)
    found = np.append(pairs, -2)[place] == keys
    found_liked = found & np.append(liked, False)[place]

    columns: dict[str, np.ndarray] = {}
    for relevance, hits, is_relevant in (
        ("any", found, np.ones_like(liked)),
        ("likes", found_liked, liked),
        ("dislikes", found & ~found_liked, ~liked),
    ):
        counts = np.bincount(owner[is_relevant], minlength=test.num_users)[user_index]
        arguments = torch.from_numpy(hits), torch.from_numpy(counts)
        names = ["recall"] if relevance == "dislikes" else list(_METRICS)
        for name in names:
            columns[f"{name}_{relevance}"] = _METRICS[name](*arguments).numpy()
        columns[f"hits_{relevance}"] = hits.sum(axis=1).astype(np.float64)
    return Evaluation(k, pd.DataFrame(columns, index=pd.Index(user_index, name="user")))


def _top_k(scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Top k by score, then by lower index; index -1 where the score is -inf."""
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
    return picked.gather(1, order).masked_fill(best == -torch.inf, -1), best


def _lowest_indices_at_boundary(
    scores: torch.Tensor, boundary: torch.Tensor, k: int
) -> torch.Tensor:
    """The k items above, or first at, each row's k-th best score ``boundary`` ``[B, 1]``."""
    above, at = scores > boundary, scores == boundary
    room = k - above.sum(dim=1, keepdim=True)
    chosen = above | (at & (at.cumsum(dim=1) <= room))
    return chosen.nonzero()[:, 1].view(len(scores), k)


def _held_out_pairs(test: Interactions) -> tuple[np.ndarray, np.ndarray]:
    """Distinct ``user * num_items + item``, ascending ``[P]``, and whether each ends liked."""
    keys = test.user * test.num_items + test.item
    order = np.lexsort((test.time, keys))
    keys, positive = keys[order], test.is_positive[order]
    is_last = np.append(keys[1:] != keys[:-1], True)[: len(keys)]
    return keys[is_last], positive[is_last]


def _check_lists(items: np.ndarray, num_items: int) -> None:
    if items.size and (items.min() < -1 or items.max() >= num_items):
        wrong = items[(items < -1) | (items >= num_items)][0]
        raise ValueError(f"a list holds item {wrong}, must be in 0 .. {num_items - 1}, or -1")
    ordered = np.sort(items, axis=1)
    repeated = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    if repeated.any():
        row = int(np.flatnonzero(repeated.any(axis=1))[0])
        raise ValueError(f"list {row} holds an item twice")


def _as_indices(users: torch.Tensor | np.ndarray, num_users: int) -> np.ndarray:
    index = np.asarray(torch.as_tensor(users).cpu())
    if index.ndim != 1 or (len(index) and index.dtype.kind not in "iu"):
        raise ValueError(f"users must be integer [U], got {index.dtype} {list(index.shape)}")
    outside = (index < 0) | (index >= num_users)
    if outside.any():
        raise ValueError(
            f"user {index[outside][0]} is out of range, must be in 0 .. {num_users - 1}"
        )
    return index.astype(np.int64)


def _as_mask(candidates: torch.Tensor | np.ndarray, num_items: int) -> torch.Tensor:
    mask = torch.as_tensor(candidates)
    if mask.dtype != torch.bool or mask.shape != (num_items,):
        raise ValueError(
            f"candidates must be bool [{num_items}], got {mask.dtype} {list(mask.shape)}"
        )
    return mask


def _check_scores(scores: torch.Tensor, users: np.ndarray, num_items: int) -> None:
    if scores.shape != (len(users), num_items) or not scores.is_floating_point():
        raise ValueError(
            f"the scorer must return float [{len(users)}, {num_items}], "
            f"got {scores.dtype} {list(scores.shape)}"
        )
    finite = torch.isfinite(scores)
    if not finite.all():
        row, item = (int(index) for index in (~finite).nonzero()[0])
        raise ValueError(
            f"user {users[row]}, item {item}: "
            f"the score is {float(scores[row, item])}, must be finite"
        )
