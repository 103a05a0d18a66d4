"""Scores of the whole catalogue, made for some users at a time and checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch

__all__ = ["Scorer", "as_user_indices", "scores_in_chunks", "users_at_a_time"]

Scorer = Callable[[torch.Tensor], torch.Tensor]
"""User indices, int64 ``[B]`` -> a finite score for every item, float ``[B, num_items]``."""

# What is computed for more users at a time no longer fits into caches; for fewer of them the
# products are slow, as each reads the vectors of all items.
_MOST_USERS, _FEWEST_USERS = 128, 16
_SCORES = 2**21  # at a time, between the two; 8 MiB of float32


def scores_in_chunks(
    scorer: Scorer, users: np.ndarray, num_items: int, chunk_size: int | None = None
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Scores for users in turn: which of them, and their scores, float ``[B, num_items]``.

    Args:
        scorer: Scores every item for a batch of users.
        users: User indices, int64 ``[U]``.
        num_items: Size of the catalogue.
        chunk_size: Users scored at a time; memory grows with ``chunk_size * num_items``. None: see
            `users_at_a_time`.

    Raises:
        ValueError: If ``chunk_size`` is below 1, the scores have the wrong shape or type, or a
            score is NaN or infinite.
    """
    if chunk_size is None:
        chunk_size = users_at_a_time(num_items)
    elif chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
    for start in range(0, len(users), chunk_size):
        chunk = users[start : start + chunk_size]
        scores = scorer(torch.from_numpy(chunk))
        _check_scores(scores, chunk, num_items)
        yield slice(start, start + len(chunk)), scores


def users_at_a_time(num_items: int) -> int:
    """Users who are scored at a time: 128, down to 16 where there are many items."""
    return min(_MOST_USERS, max(_FEWEST_USERS, _SCORES // max(1, num_items)))


def as_user_indices(users: torch.Tensor | np.ndarray, num_users: int) -> np.ndarray:
    """Users as int64 ``[U]``.

    Raises:
        ValueError: If they are not whole numbers in one dimension, or one is out of range.
    """
    index = np.asarray(torch.as_tensor(users).cpu())
    if index.ndim != 1 or (len(index) and index.dtype.kind not in "iu"):
        raise ValueError(f"users must be integer [U], got {index.dtype} {list(index.shape)}")
    outside = (index < 0) | (index >= num_users)
    if outside.any():
        raise ValueError(
            f"user {index[outside][0]} is out of range, must be in 0 .. {num_users - 1}"
        )
    return index.astype(np.int64)


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
