"""Scores of the whole catalogue, made for some users at a time and checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol, runtime_checkable

import numpy as np
import torch

__all__ = [
    "BlockScorer",
    "Scorer",
    "as_user_indices",
    "scores_in_blocks",
    "scores_in_chunks",
    "users_at_a_time",
]

Scorer = Callable[[torch.Tensor], torch.Tensor]
"""User indices, int64 ``[B]`` -> a finite score for every item, float ``[B, num_items]``."""


@runtime_checkable
class BlockScorer(Protocol):
    """A scorer that can also score the items in blocks, which is faster for large catalogues."""

    def __call__(self, users: torch.Tensor) -> torch.Tensor:
        """As `Scorer`."""

    def in_blocks(self, users: torch.Tensor, size: int) -> Iterator[torch.Tensor]:
        """The same scores for ``size`` items at a time, the last block for what is left."""


# What is computed for more users at a time no longer fits into caches; for fewer of them the
# products are slow, as each reads the vectors of all items.
_MOST_USERS, _FEWEST_USERS = 128, 16
_SCORES = 2**21  # at a time, between the two; 8 MiB of float32
_ITEMS_OF_A_BLOCK = 2**14


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
    for chunk in _chunks(len(users), users_at_a_time(num_items), chunk_size):
        scores = scorer(torch.from_numpy(users[chunk]))
        _check_scores(scores, users[chunk], num_items)
        yield chunk, scores


def scores_in_blocks(
    scorer: Scorer, users: np.ndarray, num_items: int, chunk_size: int | None = None
) -> Iterator[tuple[slice, Iterator[tuple[int, torch.Tensor]]]]:
    """Scores for users in turn, of some items at a time where the scorer can do that.

    The arguments and errors are those of `scores_in_chunks`.

    Yields:
        Which users, and in turn the first item of each block and the scores of the block.
    """
    if num_items <= _ITEMS_OF_A_BLOCK or not isinstance(scorer, BlockScorer):
        for chunk, scores in scores_in_chunks(scorer, users, num_items, chunk_size):
            yield chunk, iter([(0, scores)])
    else:
        for chunk in _chunks(len(users), users_at_a_time(_ITEMS_OF_A_BLOCK), chunk_size):
            yield chunk, _blocks(scorer, users[chunk], num_items)


def _blocks(
    scorer: BlockScorer, users: np.ndarray, num_items: int
) -> Iterator[tuple[int, torch.Tensor]]:
    blocks = scorer.in_blocks(torch.from_numpy(users), _ITEMS_OF_A_BLOCK)
    starts = range(0, num_items, _ITEMS_OF_A_BLOCK)
    for start, scores in zip(starts, blocks, strict=True):
        _check_scores(scores, users, min(_ITEMS_OF_A_BLOCK, num_items - start), start)
        yield start, scores


def _chunks(number: int, usual: int, size: int | None) -> Iterator[slice]:
    if size is not None and size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {size}")
    step = size or usual
    for start in range(0, number, step):
        yield slice(start, min(start + step, number))


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


def _check_scores(scores: torch.Tensor, users: np.ndarray, num_items: int, start: int = 0) -> None:
    """Checks what a scorer returned for users, int64 ``[B]``, and items from ``start`` on."""
    if scores.shape != (len(users), num_items) or not scores.is_floating_point():
        raise ValueError(
            f"the scorer must return float [{len(users)}, {num_items}], "
            f"got {scores.dtype} {list(scores.shape)}"
        )
    # The sum costs a fraction of a look at each score. It may overflow where none is infinite.
    if torch.isfinite(scores.sum()):
        return
    finite = torch.isfinite(scores)
    if not finite.all():
        row, item = (int(index) for index in (~finite).nonzero()[0])
        raise ValueError(
            f"user {users[row]}, item {start + item}: "
            f"the score is {float(scores[row, item])}, must be finite"
        )
