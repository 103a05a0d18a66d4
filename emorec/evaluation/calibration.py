"""Calibration of predicted polarities: how often events of a predicted probability are positive."""

from __future__ import annotations

import numpy as np
import pandas as pd

from emorec.evaluation.predictions import HeldOutPredictions

__all__ = ["reliability"]


def reliability(predictions: HeldOutPredictions, bins: int = 10) -> pd.DataFrame:
    """Predicted against observed share of positive feedback, in bins of equal numbers of events.

    Events are ordered by predicted probability and cut into bins whose sizes differ by one event
    at most. Events of equal probability stay in one bin, that of their middle, so that the order
    of the log has no effect; bins then differ more, and some may be empty.

    Args:
        predictions: Predictions of held-out events.
        bins: Number of bins.

    Returns:
        One row per bin that is not empty, by rising probability: ``predicted``, the mean
        probability; ``observed``, the share of positive feedback; ``events``, how many there are.

    Raises:
        ValueError: If ``bins`` is below 1.
    """
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    probability = predictions.probability
    _, value, count = np.unique(probability, return_inverse=True, return_counts=True)
    before = np.cumsum(count) - count
    # Twice the middle of each group of equal probabilities, so that all numbers are whole.
    middle = 2 * before + count - 1
    own = (middle * bins // max(1, 2 * len(probability)))[value]
    table = pd.DataFrame(
        {"predicted": probability, "observed": predictions.is_positive.astype(float), "bin": own}
    ).groupby("bin")
    found = table.mean()
    found["events"] = table.size()
    return found.reset_index(drop=True)
