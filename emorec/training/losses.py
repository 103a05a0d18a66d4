"""The training objective: ranking of the next items, and prediction of their polarity."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from emorec.data.feedback import Feedback
from emorec.nn.feedback_sum import FeedbackSum
from emorec.nn.model import Recommender
from emorec.ops.rows import take_rows
from emorec.settings import LossConfig
from emorec.training.batches import TrainingBatch
from emorec.training.candidates import CandidateSampler
from emorec.training.sampling import ItemSampler
from emorec.training.sharding import ItemShards
from emorec.training.softmax import catalogue_loss, draw_candidates, sharded_catalogue_loss

__all__ = [
    "Objective",
    "bpr_loss",
    "polarity_loss",
    "sum_loss",
]

_TARGETS = {
    "any": set(Feedback),
    "positive": {Feedback.EXPLICIT_POSITIVE, Feedback.IMPLICIT_POSITIVE},
    "explicit_positive": {Feedback.EXPLICIT_POSITIVE},
}


class Objective:
    """The loss of a batch.

        loss = mean over targets of the ranking loss
               + mean over events of the polarity loss

    The ranking loss is `catalogue_loss`, or `bpr_loss` against sampled items. The second term is
    absent where the model has no polarity head. Where several processes train, each has its own
    users' part of both means: they are sums over these, divided by the numbers of the whole batch.

    Args:
        model: The model in training.
        options: Which losses, and which events are targets.
        sampler: Draws the items that BPR compares a target with.
        candidates: Draws the items that the softmax sums over; None for the whole catalogue.
        shards: Item vectors that are divided over processes, or None.
    """

    def __init__(
        self,
        model: Recommender,
        options: LossConfig,
        sampler: ItemSampler,
        candidates: CandidateSampler | None = None,
        shards: ItemShards | None = None,
    ) -> None:
        self._model, self._options, self._sampler = model, options, sampler
        self._candidates, self._shards = candidates, shards
        device = model.item_vectors.device
        is_target = [kind in _TARGETS[options.targets] for kind in Feedback]
        self._is_target = torch.tensor(is_target).to(device)
        levels = () if model.polarity is None else model.polarity.levels
        self._levels = torch.tensor(levels).to(device)

    def __call__(self, batch: TrainingBatch, rng: np.random.Generator) -> Tensor | None:
        """The loss, a scalar; None for a batch without a target to rank.

        It has no gradient where no target is of this process's users.

        Args:
            batch: On the model's device.
            rng: Source of BPR's samples, and of a sampled softmax's candidates.
        """
        model, targets = self._model, batch.targets
        predictable, wanted = self._choices(batch)  # [T, K]
        (own_predictable, own_wanted), totals = batch.counts(predictable, wanted)
        num_predictable, num_wanted = totals
        if not num_wanted:
            return None
        drawn, others = None, None
        if self._options.ranking == "softmax":
            drawn = draw_candidates(self._candidates, rng)
        else:
            others = self._samples(batch, wanted, rng)
        loss, rows = torch.zeros((), device=wanted.device), None
        if self._shards is not None:
            rows = self._shards.rows(model.item_vectors, batch.sequences.item)
        if len(batch.sequences.user):
            state, taste = model(
                batch.sequences, batch.graph, batch.user_node, batch.sees_graph, rows=rows
            )
        elif rows is not None:  # the other processes wait for the gradient of what was looked up
            state, taste = rows.vectors[:0], None
        else:
            return loss
        ranked = wanted.any(1).nonzero()[:, 0]
        x, target = take_rows(state, ranked), targets.item[ranked]
        if self._shards is not None:
            assert batch.whole is not None
            loss = loss + sharded_catalogue_loss(
                x,
                batch.whole.own[ranked],
                model.item_vectors,
                None,
                *batch.whole.targets(targets.item, wanted),
                self._candidates,
                drawn,
                self._shards,
            )
        elif own_wanted:
            if others is None:
                ranking = catalogue_loss(
                    x, model.item_vectors, None, target, wanted[ranked], self._candidates, drawn
                )
            else:
                ranking = self._bpr(batch, state, wanted, *others)
            loss = loss + own_wanted / num_wanted * ranking
        if model.polarity is not None and own_predictable:
            logit = model.polarity.logits(taste, targets.item, targets.feedback)
            is_reached = targets.feedback[..., None] <= self._levels
            loss = loss + (polarity_loss(logit, is_reached) * predictable).sum() / num_predictable
        return loss

    def _choices(self, batch: TrainingBatch) -> tuple[Tensor, Tensor]:
        """Which targets have a polarity to predict, and which are to be ranked, ``[T, K]``."""
        targets, predictable = batch.targets, batch.targets.exists
        if self._model.sequence_encoder is None and batch.sees_graph is not None:
            # The graph is the only input of these encoders.
            predictable = predictable & batch.sees_graph[:, None]
        return predictable, predictable & self._is_target[targets.feedback]

    def _samples(
        self, batch: TrainingBatch, wanted: Tensor, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Items for the targets of this process, drawn with those of all processes, ``[N, 1]``."""
        whole, sequences = batch.whole, batch.sequences
        if whole is None:
            token = wanted.nonzero()[:, 0]
            user = sequences.user[sequences.row[token]].cpu().numpy()
        else:
            token = whole.spread(wanted).nonzero()[:, 0]
            user = whole.user[token.cpu().numpy()]
        found = self._sampler.sample(user, 1, rng)
        others, is_valid = (torch.from_numpy(each).to(wanted.device) for each in found)
        if whole is not None:
            is_own = torch.isin(token, whole.own)
            others, is_valid = others[is_own], is_valid[is_own]
        return others, is_valid

    def _bpr(
        self, batch: TrainingBatch, state: Tensor, wanted: Tensor, others: Tensor, is_valid: Tensor
    ) -> Tensor:
        token, item = wanted.nonzero()[:, 0], batch.targets.item[wanted]
        scores = self._model.scores(state[token], torch.cat([item[:, None], others], dim=1))
        # An invalid sample scores -inf, where the loss and its gradient are 0.
        return bpr_loss(scores[:, 0], scores[:, 1:].masked_fill(~is_valid, -torch.inf)).mean()


def sum_loss(
    encoder: FeedbackSum,
    batch: TrainingBatch,
    candidates: CandidateSampler | None,
    rng: np.random.Generator,
    shards: ItemShards | None = None,
) -> Tensor | None:
    """`catalogue_loss` of a feedback sum; None for a batch without a like.

    The mean is over the targets with positive feedback; see `Objective` for several processes.

    Args:
        encoder: The feedback sum.
        batch: A batch of `emorec.training.batches.half_batches`.
        candidates: Draws the items that the softmax sums over; None for the whole catalogue.
        rng: Source of the candidates.
        shards: Item vectors that are divided over processes, or None.
    """
    assert batch.graph is not None and batch.user_node is not None
    kinds = torch.tensor([kind in _TARGETS["positive"] for kind in Feedback])
    targets = batch.targets
    wanted = targets.exists & kinds.to(targets.feedback.device)[targets.feedback]
    (own_wanted,), (num_wanted,) = batch.counts(wanted)
    if not num_wanted:
        return None
    drawn = draw_candidates(candidates, rng)
    ranked = wanted.any(1).nonzero()[:, 0]
    items, bias = encoder.target.weight, encoder.bias
    if shards is not None:
        assert batch.whole is not None
        source = shards.rows(encoder.source.weight, batch.graph.events.item)
        x = source.vectors[:0]  # without a user, for the gradient of what was looked up
        if len(batch.sequences.user):
            x = encoder(batch.graph.among(source.items), source.vectors)
            x = take_rows(x, batch.user_node[batch.sequences.row[ranked]])
        token, target = batch.whole.targets(targets.item, wanted)
        return sharded_catalogue_loss(
            x, batch.whole.own[ranked], items, bias, token, target, candidates, drawn, shards
        )
    if not own_wanted:
        return torch.zeros((), device=wanted.device)
    x = take_rows(encoder(batch.graph), batch.user_node[batch.sequences.row[ranked]])
    loss = catalogue_loss(x, items, bias, targets.item[ranked], wanted[ranked], candidates, drawn)
    return own_wanted / num_wanted * loss


def bpr_loss(target: Tensor, others: Tensor) -> Tensor:
    """Bayesian personalised ranking: ``-mean_n log sigmoid(s_target - s_n)``.

    Args:
        target: Score of the target item, ``[T]``.
        others: Scores of the items it is compared with, ``[T, N]``; -inf leaves one out.

    Returns:
        ``[T]``.

    References:
        S. Rendle et al.: BPR: Bayesian Personalized Ranking from Implicit Feedback, UAI 2009,
        arXiv:1205.2618.
    """
    return -F.logsigmoid(target[:, None] - others).mean(-1)


def polarity_loss(logit: Tensor, is_reached: Tensor) -> Tensor:
    """Binary cross-entropy of "the event is as positive as this, or more", summed over levels.

    Args:
        logit: Log-odds at each of ``M`` levels, ``[..., M]``.
        is_reached: Whether the event was as positive, bool ``[..., M]``.

    Returns:
        ``[...]``.
    """
    return F.softplus(torch.where(is_reached, -logit, logit)).sum(-1)
