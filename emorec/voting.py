"""How much the neighbours' vote counts, and how long a voice lasts: validation chooses."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from emorec.config import Config
from emorec.data.interactions import Interactions
from emorec.evaluation.ranking import TopK, evaluate, left_out, recommend_top_k
from emorec.nn.model import Recommender
from emorec.scoring import ModelScorer

__all__ = ["choose_vote"]

_WEIGHTS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
_MEMORIES = (20.0, math.inf)
_USERS = 2000  # at most, who choose


def choose_vote(
    model: Recommender, config: Config, fit: Interactions, valid: Interactions, progress: bool
) -> None:
    """Sets weight and memory of a model's neighbours to those that rank validation best.

    All combinations are tried. What the encoders make of a user is asked for once, and each
    memory's vote once: the ranking is their weighted sum.

    Args:
        model: A trained model with neighbours.
        config: Its run, which says by which score to choose.
        fit: What the model was trained on.
        valid: Targets, at least one.
        progress: Whether to show a progress bar.
    """
    neighbours = model.neighbours
    assert neighbours is not None
    users = np.unique(valid.user)
    users = users[:: math.ceil(len(users) / _USERS)]
    valid = valid.select(np.isin(valid.user, users))
    scorer = ModelScorer(model, fit, config.training.device)
    seen, k = left_out(fit, config.evaluation.seen), config.evaluation.k
    candidates = np.bincount(fit.item, minlength=fit.num_items) > 0

    def best(scores: Tensor, chunk: Tensor) -> TopK:
        return recommend_top_k(lambda _: scores, chunk, seen, k, candidates, len(chunk))

    lists: dict[tuple[float, float], list[TopK]]
    lists = {choice: [] for choice in itertools.product(_WEIGHTS, _MEMORIES)}
    chunks = torch.from_numpy(users).split(config.evaluation.batch_size)
    bar = tqdm(chunks, "neighbours' vote", unit="chunk", leave=False, disable=not progress)
    for chunk in bar:
        foreseen = scorer.without_vote(chunk)
        for memory in _MEMORIES:
            neighbours.memory.fill_(memory)
            vote = scorer.vote(chunk)
            for weight in _WEIGHTS:
                lists[weight, memory].append(best(foreseen + weight * vote, chunk))

    def score(choice: tuple[float, float]) -> float:
        parts = lists[choice]
        topk = TopK(
            torch.cat([part.items for part in parts]), torch.cat([part.scores for part in parts])
        )
        return evaluate(topk, users, valid, k).summary()[config.evaluation.measure]

    weight, memory = max(lists, key=score)
    neighbours.weight.fill_(weight)
    neighbours.memory.fill_(memory)
