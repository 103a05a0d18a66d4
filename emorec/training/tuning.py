"""What validation chooses after training: weights and decay lengths of the graph's terms."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from emorec.config import Config
from emorec.evaluation.top_k import TopK, evaluate
from emorec.nn.feedback_sum import FeedbackSum
from emorec.nn.model import Recommender
from emorec.training.validation import Validation

__all__ = ["tune_decay", "tune_ranking"]

_SUM_WEIGHTS = (0.0, 0.5, 1.0, 1.5, 2.0)
_SUM_DECAY_LENGTHS = (math.inf, 20.0, 10.0, 5.0)
_PATH_WEIGHTS = (0.0, 1.0, 2.0, 4.0, 8.0)
_PATH_DECAY_LENGTHS = (5.0, 20.0, math.inf)
_USERS = 2000  # at most


def tune_ranking(
    model: Recommender, config: Config, validation: Validation, progress: bool
) -> None:
    """Sets the weights of the graph's terms, and the paths' decay length, to those that rank best.

    All combinations are tried. The other terms of the ranking are computed once, and the paths'
    scores once per decay length: the ranking is their weighted sum. Where nothing else ranks, the
    weight of the sum stays 1.

    Args:
        model: The validated model.
        config: The run; ``evaluation.select`` says by which score to choose.
        validation: The validation of the trained model.
        progress: Whether to show a progress bar.
    """
    summed, paths = model.feedback_sum, model.feedback_paths
    weights = _SUM_WEIGHTS if summed is not None and model.item_embedding is not None else (1.0,)
    path_weights: Sequence[float] = (0.0,)
    decay_lengths: Sequence[float] = (math.inf,)
    if paths is not None:
        path_weights, decay_lengths = _PATH_WEIGHTS, _PATH_DECAY_LENGTHS
    choices = list(itertools.product(weights, path_weights, decay_lengths))
    if len(choices) == 1:
        return
    users = validation.users[:: math.ceil(len(validation.users) / _USERS)]
    targets = validation.targets.select(np.isin(validation.targets.user, users))
    own, k = validation.own(users), config.evaluation.k
    nothing = TopK(torch.zeros(0, k, dtype=torch.int64), torch.zeros(0, k))
    lists = {choice: [nothing] for choice in choices}
    chunks = own.split(validation.chunk_size) if len(own) else ()
    for chunk in tqdm(chunks, "weights", unit="chunk", leave=False, disable=not progress):
        terms = validation.scorer.terms(chunk)._replace(graph=None, paths=None)
        others: Tensor | float = terms.total() if any(t is not None for t in terms) else 0.0
        graph = validation.scorer.graph_scores(chunk)
        for decay_length in decay_lengths:
            scores: Tensor | float = 0.0
            if paths is not None:
                paths.decay_length.fill_(decay_length)
                found = validation.scorer.path_scores(chunk)
                assert found is not None
                scores = found
            for weight, path_weight in itertools.product(weights, path_weights):
                total = others + path_weight * scores + (0.0 if graph is None else weight * graph)
                assert isinstance(total, Tensor)  # without a sum and paths there is one choice
                choice = weight, path_weight, decay_length
                lists[choice].append(validation.lists(total, chunk))

    def quality(choice: tuple[float, float, float]) -> float:
        parts = lists[choice]
        topk = TopK(
            torch.cat([part.items for part in parts]), torch.cat([part.scores for part in parts])
        )
        found = validation.gathered(evaluate(topk, own, targets, k))
        return found.score(config.evaluation.select)

    weight, path_weight, decay_length = max(choices, key=quality)
    if summed is not None:
        summed.ranking_weight.fill_(weight)
    if paths is not None:
        paths.ranking_weight.fill_(path_weight)
        paths.decay_length.fill_(decay_length)


def tune_decay(encoder: FeedbackSum, validation: Validation, select: str) -> None:
    """Sets a feedback sum's decay length to that which ranks validation best.

    Args:
        encoder: The feedback sum of the validated model.
        validation: The validation of the sum alone.
        select: The score to choose by.
    """

    def quality(decay_length: float) -> float:
        encoder.decay_length.fill_(decay_length)
        return validation()[select]

    encoder.decay_length.fill_(max(_SUM_DECAY_LENGTHS, key=quality))
