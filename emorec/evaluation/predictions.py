"""Metrics of predicted polarities: how well they separate likes from dislikes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from emorec.data.interactions import Interactions
from emorec.evaluation.held_out import HeldOut
from emorec.evaluation.scores import Scorer, as_user_indices, scores_in_chunks

__all__ = [
    "HeldOutPredictions",
    "brier_score",
    "calibration_error",
    "evaluate_predictions",
    "polarity_auc",
    "predict_held_out",
    "roc_auc",
]


@dataclass(frozen=True, eq=False)
class HeldOutPredictions:
    """Predicted polarities of held-out pairs, and what the feedback was.

    Attributes:
        user: User indices, int64 ``[P]``, ascending.
        probability: Predicted P(positive), float64 ``[P]``, in [0, 1].
        is_positive: Whether the feedback was positive, bool ``[P]``.
    """

    user: np.ndarray
    probability: np.ndarray
    is_positive: np.ndarray

    def figures(self) -> dict[str, float]:
        """What `evaluate_predictions` returns.

        Raises:
            ValueError: If a probability is not in [0, 1].
        """
        users, row = np.unique(self.user, return_inverse=True)
        aucs = _auc(row, self.probability, self.is_positive, len(users))
        return {
            "polarity_auc": float(np.nanmean(aucs)) if np.isfinite(aucs).any() else float("nan"),
            "roc_auc": roc_auc(self.probability, self.is_positive),
            "brier_score": brier_score(self.probability, self.is_positive),
            "calibration_error": calibration_error(self.probability, self.is_positive),
        }


@torch.no_grad()
def polarity_auc(
    scorer: Scorer,
    users: torch.Tensor | np.ndarray,
    test: Interactions,
    chunk_size: int | None = None,
) -> pd.Series:
    """Chance that one of a user's held-out likes outscores one of the same user's dislikes.

    ``(pairs with like > dislike + half of the pairs with like = dislike) / (likes * dislikes)``

    It measures polarity alone: unobserved items have no influence, and chance level is 1/2. Liked
    items are also popular, so popularity reaches more. Compare with `baselines.ItemPrior`: only
    what exceeds it is specific to the user.

    Args:
        scorer: Scores every item for a batch of users.
        users: User indices, int64 ``[U]``, in any order.
        test: Held-out interactions; a repeated pair counts once, with its last feedback.
        chunk_size: Users scored at a time; None: see `emorec.evaluation.scores.users_at_a_time`.

    Returns:
        float64 ``[U]`` in [0, 1] by user, named "polarity_auc"; NaN for a user without a held-out
        like or without a held-out dislike.

    Raises:
        ValueError: If a user is out of range, or the scores have the wrong shape or type or are
            not finite.
    """
    held_out = HeldOut.of(test)
    index = as_user_indices(users, held_out.num_users)
    values = np.full(len(index), np.nan)
    for chunk, row, place, scores in _of_held_out(scorer, index, held_out, chunk_size):
        values[chunk] = _auc(row, scores, held_out.is_positive[place], chunk.stop - chunk.start)
    return pd.Series(values, pd.Index(index, name="user"), name="polarity_auc")


def evaluate_predictions(
    predict: Scorer, test: Interactions, chunk_size: int | None = None
) -> dict[str, float]:
    """Evaluates predicted polarities against the feedback on held-out items.

    Args:
        predict: Predicts P(positive) for every item and a batch of users.
        test: Held-out interactions; a repeated pair counts once, with its last feedback.
        chunk_size: Users predicted at a time; None: see
            `emorec.evaluation.scores.users_at_a_time`.

    Returns:
        "polarity_auc", the mean over users with both a like and a dislike, see `polarity_auc`;
        and over all held-out pairs "roc_auc", "brier_score" and "calibration_error".

    Raises:
        ValueError: If predictions have the wrong shape or type, or are not in [0, 1].
    """
    return predict_held_out(predict, test, chunk_size).figures()


@torch.no_grad()
def predict_held_out(
    predict: Scorer, test: Interactions, chunk_size: int | None = None
) -> HeldOutPredictions:
    """Predicts the polarities of all held-out pairs.

    Args:
        predict: Predicts P(positive) for every item and a batch of users.
        test: Held-out interactions; a repeated pair counts once, with its last feedback.
        chunk_size: Users predicted at a time; None: see
            `emorec.evaluation.scores.users_at_a_time`.

    Raises:
        ValueError: If predictions have the wrong shape or type.
    """
    held_out = HeldOut.of(test)
    probability = np.zeros(len(held_out.user))
    users = np.unique(held_out.user)
    for _, _, place, scores in _of_held_out(predict, users, held_out, chunk_size):
        probability[place] = scores
    return HeldOutPredictions(held_out.user, probability, held_out.is_positive)


def roc_auc(probability: np.ndarray, is_positive: np.ndarray) -> float:
    """Chance that a positive event has a higher predicted probability than a negative one.

    ``(pairs with p+ > p- + half of the pairs with p+ = p-) / (positive * negative events)``, the
    area under the ROC curve. Any increasing function of the probability gives the same value.

    Args:
        probability: Predicted P(positive) of each event, ``[N]``.
        is_positive: Whether the event was positive, bool ``[N]``.

    Returns:
        In [0, 1]; 1/2 for a guess, NaN without a positive or without a negative event.

    Raises:
        ValueError: If the shapes differ, ``is_positive`` is not bool, or a probability is not in
            [0, 1].
    """
    probability, is_positive = _check_predictions(probability, is_positive)
    return float(_auc(np.zeros(len(probability), np.int64), probability, is_positive, 1)[0])


def brier_score(probability: np.ndarray, is_positive: np.ndarray) -> float:
    """Mean squared error of predicted probabilities: ``mean of (p - y)^2``, y being 1 or 0.

    Args:
        probability: Predicted P(positive) of each event, ``[N]``.
        is_positive: Whether the event was positive, bool ``[N]``.

    Returns:
        In [0, 1], lower is better; the share q of positives as a constant prediction has
        ``q (1 - q)``. NaN without events.

    Raises:
        ValueError: If the shapes differ, ``is_positive`` is not bool, or a probability is not in
            [0, 1].

    References:
        G. W. Brier, "Verification of Forecasts Expressed in Terms of Probability", Monthly Weather
        Review 78(1), 1950.
    """
    probability, is_positive = _check_predictions(probability, is_positive)
    if len(probability) == 0:
        return float("nan")
    return float(np.mean((probability - is_positive) ** 2))


def calibration_error(probability: np.ndarray, is_positive: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error: how far predicted probabilities are from what happens.

    Events are put into bins of equal width by predicted probability, ``(b / bins, (b + 1) / bins]``
    with 0 in the first; then ``sum over bins of n_b / N * |mean prediction - share of positives|``.

    Args:
        probability: Predicted P(positive) of each event, ``[N]``.
        is_positive: Whether the event was positive, bool ``[N]``.
        bins: Number of bins.

    Returns:
        In [0, 1], lower is better; NaN without events. 0 says that predictions are honest, not
        that they are sharp: a constant at the share of positives has it.

    Raises:
        ValueError: If the shapes differ, ``is_positive`` is not bool, a probability is not in
            [0, 1], or ``bins`` is below 1.

    References:
        M. Pakdaman Naeini, G. Cooper and M. Hauskrecht, "Obtaining Well Calibrated Probabilities
        Using Bayesian Binning", AAAI 2015.
    """
    probability, is_positive = _check_predictions(probability, is_positive)
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    if len(probability) == 0:
        return float("nan")
    inner_edges = np.arange(1, bins) / bins
    own = np.searchsorted(inner_edges, probability)
    # n_b * |mean - mean| is the absolute value of a difference of sums.
    gaps = np.bincount(own, weights=probability - is_positive, minlength=bins)
    return float(np.abs(gaps).sum() / len(probability))


def _of_held_out(
    scorer: Scorer, users: np.ndarray, held_out: HeldOut, chunk_size: int | None
) -> Iterator[tuple[slice, np.ndarray, np.ndarray, np.ndarray]]:
    """Scores of held-out pairs: which users; each pair's row among them, place and score, [P]."""
    first = np.searchsorted(held_out.user, users)
    lengths = np.searchsorted(held_out.user, users, side="right") - first
    for chunk, scores in scores_in_chunks(scorer, users, held_out.num_items, chunk_size):
        row = np.repeat(np.arange(len(scores)), lengths[chunk])
        before = np.cumsum(lengths[chunk]) - lengths[chunk]
        place = np.arange(len(row)) + np.repeat(first[chunk] - before, lengths[chunk])
        items = torch.from_numpy(held_out.item[place]).to(scores.device)
        of_pairs = scores[torch.from_numpy(row).to(scores.device), items]
        yield chunk, row, place, of_pairs.detach().double().cpu().numpy()


def _auc(
    group: np.ndarray, score: np.ndarray, is_positive: np.ndarray, num_groups: int
) -> np.ndarray:
    """Area under the ROC curve within each group, ``[num_groups]``, from ranks within groups."""
    order = np.lexsort((score, group))
    group, score, is_positive = group[order], score[order], is_positive[order]
    differs = (group[1:] != group[:-1]) | (score[1:] != score[:-1])
    run = np.cumsum(np.append(False, differs))[: len(group)]  # of ties within a group
    sizes = np.bincount(run)
    # Ties share the mean of their 1-based ranks in the group.
    mean_place = np.cumsum(sizes) - (sizes - 1) / 2
    rank = mean_place[run] - np.searchsorted(group, group)
    positive = np.bincount(group, weights=is_positive, minlength=num_groups)
    negative = np.bincount(group, minlength=num_groups) - positive
    rank_sum = np.bincount(group, weights=rank * is_positive, minlength=num_groups)
    pairs = positive * negative
    wins = rank_sum - positive * (positive + 1) / 2
    return np.divide(wins, pairs, out=np.full(num_groups, np.nan), where=pairs > 0)


def _check_predictions(
    probability: np.ndarray, is_positive: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    probability = np.asarray(probability, dtype=np.float64)
    is_positive = np.asarray(is_positive)
    if probability.ndim != 1 or is_positive.shape != probability.shape:
        raise ValueError(
            "probability and is_positive must both be [N], "
            f"got {list(probability.shape)} and {list(is_positive.shape)}"
        )
    if is_positive.dtype != np.bool_:
        raise ValueError(f"is_positive must be bool, got {is_positive.dtype}")
    outside = ~((probability >= 0) & (probability <= 1))
    if outside.any():
        row = int(outside.argmax())
        raise ValueError(f"row {row}: the probability is {probability[row]}, must be in [0, 1]")
    return probability, is_positive
