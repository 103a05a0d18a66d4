"""Validation: the lists of a model in training for held-out events, by the ranking of users."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from emorec.config import Config
from emorec.data.interactions import Interactions
from emorec.data.requests import first_times
from emorec.data.sequences import EventSequences
from emorec.evaluation.scores import users_at_a_time
from emorec.evaluation.top_k import (
    Evaluation,
    TopK,
    evaluate,
    excluded_items,
    recommend_top_k,
)
from emorec.inference.ranking import ModelScorer
from emorec.nn.model import Recommender
from emorec.processes import ALONE, World
from emorec.training.shares import summed

__all__ = ["TrainingError", "Validation", "diverged"]


class TrainingError(RuntimeError):
    """Training that cannot continue; the message says why."""


class Validation:
    """Evaluates a model on validation targets; what does not change in training is built once.

    The time of a user's request is that of the user's first target.

    Args:
        model: The model in training.
        config: The run.
        fit: The events that the model is trained on, of this process's own users.
        events: The same as sequences.
        targets: Validation targets of this process's own users; at least one of all processes.
        only_sum: Whether to rank by the feedback sum alone.
        world: The processes, each of which makes the lists of its own users.

    Attributes:
        scorer: The model's scorer, which follows its parameters.
        targets: The targets.
        users: Users with a target, of all processes, int64 ``[U]``.
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
        counts = np.bincount(targets.user, minlength=fit.num_users)
        self.users = torch.from_numpy(np.flatnonzero(summed(world, counts)))
        self._is_own, self._world, self._config = counts > 0, world, config
        self._excluded = excluded_items(fit, config.evaluation.seen)
        item_counts = np.bincount(fit.item, minlength=fit.num_items)
        self._candidates = torch.from_numpy(summed(world, item_counts) > 0)
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
        found = self.gathered(evaluate(topk, own, self.targets, self._config.evaluation.k))
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
        return users[torch.from_numpy(self._is_own)[users]]

    def gathered(self, found: Evaluation) -> Evaluation:
        """The metrics of all processes' users, in their order, from those of its own users."""
        if self._world.size == 1:
            return found
        frame = found.per_user
        users, values = (
            torch.cat(self._world.gather(torch.tensor(each)))
            for each in (frame.index.to_numpy(), frame.to_numpy())
        )
        order = users.argsort()
        columns = dict(zip(frame.columns, values[order].T.numpy(), strict=True))
        return Evaluation(found.k, pd.DataFrame(columns, index=users[order].numpy()))

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
