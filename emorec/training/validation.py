"""Validation: the lists of a model in training for held-out events, by the ranking of users."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from emorec.config import Config
from emorec.data.interactions import Interactions
from emorec.data.requests import first_times
from emorec.data.sequences import EventSequences
from emorec.evaluation.scores import users_at_a_time
from emorec.evaluation.top_k import TopK, evaluate, excluded_items, recommend_top_k
from emorec.inference.ranking import ModelScorer
from emorec.nn.model import Recommender
from emorec.processes import ALONE, World
from emorec.training.distributed import own_users

__all__ = ["TrainingError", "Validation", "diverged"]


class TrainingError(RuntimeError):
    """Training that cannot continue; the message says why."""


class Validation:
    """Evaluates a model on validation targets; what does not change in training is built once.

    The time of a user's request is that of the user's first target.

    Args:
        model: The model in training.
        config: The run.
        fit: The events that the model is trained on.
        events: The same as sequences.
        targets: Validation targets, at least one.
        only_sum: Whether to rank by the feedback sum alone.
        world: The processes, each of which makes the lists of its own users.

    Attributes:
        scorer: The model's scorer, which follows its parameters.
        targets: The targets.
        users: Users with a target, int64 ``[U]``.
        chunk_size: Users that are scored at a time.
    """

    def __init__(
        self,
        model: Recommender,
        config: Config,
        fit: Interactions,
        events: EventSequences,
        targets: Interactions,
        only_sum: bool = False,
        world: World = ALONE,
    ) -> None:
        requests = first_times(targets, fit)
        self.scorer = ModelScorer(model, fit, config.training.device, events, requests)
        self._only_sum = only_sum
        self.targets = targets
        self.users = torch.from_numpy(np.unique(targets.user))
        self._world, self._is_own = world, own_users(fit.users, world)
        self._config = config
        self._excluded = excluded_items(fit, config.evaluation.seen)
        self._candidates = torch.zeros(fit.num_items, dtype=torch.bool)
        self._candidates[np.unique(fit.item)] = True
        self.chunk_size = users_at_a_time(fit.num_items)

    def __call__(self) -> dict[str, float]:
        """Scores of the model as it is.

        Raises:
            TrainingError: If a score of an item is not finite.
        """
        own = self.own(self.users)
        topk = recommend_top_k(
            self._finite_scores,
            own,
            self._excluded,
            self._config.evaluation.k,
            self._candidates,
            self.chunk_size,
        )
        found = evaluate(
            self.gathered(topk, own), self.users, self.targets, self._config.evaluation.k
        )
        summary = found.summary()
        return {
            "recall": summary["recall_any"],
            "ndcg": summary["ndcg_any"],
            "recall_likes": summary["recall_likes"],
            "ndcg_likes": summary["ndcg_likes"],
            "ndcg_mean": found.score("ndcg_mean"),
            "disliked_share": summary["disliked_share"],
        }

    def own(self, users: Tensor) -> Tensor:
        """Those of some users that this process makes lists for."""
        return users if self._is_own is None else users[torch.from_numpy(self._is_own)[users]]

    def gathered(self, topk: TopK, own: Tensor) -> TopK:
        """The lists of all processes in the order of users, from those of its own users."""
        if self._is_own is None:
            return topk
        users, items, scores = (
            torch.cat(self._world.gather(each)) for each in (own, topk.items, topk.scores)
        )
        order = users.argsort()
        return TopK(items[order], scores[order])

    def lists(self, scores: Tensor, users: Tensor) -> TopK:
        """Lists by scores that are made already, ``[B, I]``, of users ``[B]``."""
        k = self._config.evaluation.k
        return recommend_top_k(
            lambda _: scores, users, self._excluded, k, self._candidates, len(users)
        )

    def _finite_scores(self, users: Tensor) -> Tensor:
        scores = self.scorer.graph_scores(users) if self._only_sum else self.scorer(users)
        assert scores is not None
        if not torch.isfinite(scores).all():
            raise diverged("the scores of validation are not finite", self._config)
        return scores


def diverged(what: str, config: Config) -> TrainingError:
    """The error of a training whose numbers have become useless."""
    rate = config.training.learning_rate
    return TrainingError(f"{what}; lower training.learning_rate (now {rate})")
