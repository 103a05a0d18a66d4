"""What validation chooses after training: the neighbours' weight, and decay lengths."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from tqdm import tqdm

from emorec.config import Config
from emorec.evaluation.top_k import TopK, evaluate
from emorec.inference.neighbours import Neighbours
from emorec.nn.feedback_sum import FeedbackSum
from emorec.training.validation import Validation

__all__ = ["tune_decay", "tune_neighbours"]

_WEIGHTS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
_DECAY_LENGTHS = (20.0, math.inf)
_USERS = 2000  # at most
_DECAY_LENGTHS_OF_SUMS = (math.inf, 20.0, 10.0, 5.0)


def tune_neighbours(
    neighbours: Neighbours, config: Config, validation: Validation, progress: bool
) -> None:
    """Sets weight and decay length to those that rank validation best.

    All combinations are tried. The other terms of the ranking are computed once, and the neighbour
    scores once per decay length: the ranking is their weighted sum.

    Args:
        neighbours: The neighbours of the validated model.
        config: The run; ``evaluation.select`` says by which score to choose.
        validation: The validation of the trained model.
        progress: Whether to show a progress bar.
    """
    users = validation.users[:: math.ceil(len(validation.users) / _USERS)]
    targets = validation.targets.select(np.isin(validation.targets.user, users))
    lists: dict[tuple[float, float], list[TopK]]
    lists = {choice: [] for choice in itertools.product(_WEIGHTS, _DECAY_LENGTHS)}
    chunks = users.split(validation.chunk_size)
    for chunk in tqdm(chunks, "neighbours", unit="chunk", leave=False, disable=not progress):
        others = validation.scorer.terms(chunk)._replace(neighbours=None).total()
        for decay_length in _DECAY_LENGTHS:
            neighbours.decay_length.fill_(decay_length)
            scores = validation.scorer.neighbour_scores(chunk)
            for weight in _WEIGHTS:
                found = validation.lists(others + weight * scores, chunk)
                lists[weight, decay_length].append(found)

    def quality(choice: tuple[float, float]) -> float:
        parts = lists[choice]
        topk = TopK(
            torch.cat([part.items for part in parts]), torch.cat([part.scores for part in parts])
        )
        summary = evaluate(topk, users, targets, config.evaluation.k).summary()
        return summary[config.evaluation.measure]

    weight, decay_length = max(lists, key=quality)
    neighbours.weight.fill_(weight)
    neighbours.decay_length.fill_(decay_length)


def tune_decay(encoder: FeedbackSum, config: Config, validation: Validation) -> None:
    """Sets the decay length to that which ranks validation best.

    Args:
        encoder: The graph encoder of the validated model.
        config: The run; ``evaluation.select`` says by which score to choose.
        validation: The validation of the trained model.
    """

    def quality(decay_length: float) -> float:
        encoder.decay_length.fill_(decay_length)
        return validation()[config.evaluation.select]

    encoder.decay_length.fill_(max(_DECAY_LENGTHS_OF_SUMS, key=quality))
