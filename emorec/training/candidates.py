"""The items that a training step's softmax sums over, where the catalogue is too large for all.

The items of a batch's targets always are candidates. ``n`` items drawn uniformly, without
replacement, from the other ``R`` of the catalogue stand for all of those: each has the probability
``n / R`` of being drawn, so its exponential counts ``R / n`` times,

    Z_t = sum_i exp s_ti  ~  sum_{i in batch} exp s_ti + sum_{i drawn} exp(s_ti + log(R / n))

The sum is unbiased for every state, whatever the batch holds, and exact where ``n`` is ``R``. Its
logarithm, the loss, is too low by about ``var(Z) / 2 Z^2``, which vanishes as ``n`` grows.

In-batch sampling without this condition corrects the batch's items by their popularity instead;
that is biased, because a batch holds a user's own items more often than their popularity says.

References:
    Y. Bengio and J.-S. Senecal: Adaptive Importance Sampling to Accelerate Training of a Neural
    Probabilistic Language Model, IEEE Transactions on Neural Networks 19(4), 2008. X. Yi et al.:
    Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations, RecSys 2019.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["LARGEST_WHOLE", "Candidates", "draw_candidates", "num_drawn"]

LARGEST_WHOLE = 50_000
"""Items of the largest catalogue that ``loss.negatives = -1`` sums over as a whole."""

_DRAWN = 4096  # from larger ones


class Candidates(NamedTuple):
    """Items that stand for the catalogue.

    Attributes:
        item: Distinct items, int64 ``[C]``, those of the targets first.
        log_weight: What is added to each one's score, float32 ``[C]``.
        place: Where each target is in ``item``, int64 ``[N]``.
    """

    item: np.ndarray
    log_weight: np.ndarray
    place: np.ndarray


def num_drawn(negatives: int, num_items: int) -> int:
    """How many items are drawn per step; 0 for a softmax over the whole catalogue.

    Args:
        negatives: The setting ``loss.negatives``.
        num_items: Size of the catalogue.
    """
    if negatives >= 0:
        return negatives
    return _DRAWN if num_items > LARGEST_WHOLE else 0


def draw_candidates(
    target: np.ndarray, num_items: int, size: int, rng: np.random.Generator
) -> Candidates:
    """Draws the candidates of one step; see the module's formula.

    Args:
        target: Items of the batch's targets, int64 ``[N]``.
        num_items: Size of the catalogue.
        size: How many others are drawn; all of them if there are no more.
        rng: Source of the draw.
    """
    own, place = np.unique(target, return_inverse=True)
    num_others = num_items - len(own)
    size = min(size, num_others)
    # The r-th other item is r plus the number of targets before it: those with fewer than r + 1
    # others before them.
    rank = rng.choice(num_others, size, replace=False, shuffle=False)
    others = rank + np.searchsorted(own - np.arange(len(own)), rank, side="right")
    log_weight = np.zeros(len(own) + size, dtype=np.float32)
    if size:
        log_weight[len(own) :] = np.log(num_others / size)
    return Candidates(np.concatenate([own, others]), log_weight, place)
