"""The training objective: ranking of the next items, and prediction of their polarity."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from emorec.config import LossConfig
from emorec.data.feedback import Feedback
from emorec.data.sequences import Targets
from emorec.nn.feedback_sum import FeedbackSum
from emorec.nn.model import Recommender
from emorec.ops.softmax_loss import softmax_loss
from emorec.training.batches import TrainingBatch
from emorec.training.candidates import CandidateSampler
from emorec.training.sampling import ItemSampler

__all__ = [
    "Objective",
    "bpr_loss",
    "catalogue_loss",
    "draw_candidates",
    "polarity_loss",
    "sampled_softmax_loss",
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
    """

    def __init__(
        self,
        model: Recommender,
        options: LossConfig,
        sampler: ItemSampler,
        candidates: CandidateSampler | None = None,
    ) -> None:
        self._model, self._options, self._sampler = model, options, sampler
        self._candidates = candidates
        self._is_target = torch.tensor([kind in _TARGETS[options.targets] for kind in Feedback])

    def __call__(self, batch: TrainingBatch, rng: np.random.Generator) -> Tensor | None:
        """The loss, a scalar; None for a batch without a target to rank.

        It has no gradient where no target is of this process's users.

        Args:
            batch: On the model's device.
            rng: Source of BPR's samples, and of a sampled softmax's candidates.
        """
        model, targets = self._model, batch.targets
        predictable, wanted = self._choices(batch)  # [T, K]
        every_predictable, every_wanted = predictable, wanted
        if batch.whole is not None:
            every_predictable, every_wanted = self._choices(batch.whole)
        if not every_wanted.any():
            return None
        drawn = None
        if self._options.ranking == "softmax":
            drawn = draw_candidates(self._candidates, rng)
        else:
            others = self._samples(batch, every_wanted, rng)
        loss = torch.zeros((), device=wanted.device)
        if not len(batch.sequences.user):
            return loss
        state, taste = model(batch.sequences, batch.graph, batch.user_node, batch.sees_graph)
        if wanted.any():
            ranked = wanted.any(1)
            if self._options.ranking == "softmax":
                x, target = state[ranked], targets.item[ranked]
                ranking = catalogue_loss(
                    x, model.item_vectors, None, target, wanted[ranked], self._candidates, drawn
                )
            else:
                ranking = self._bpr(batch, state, wanted, *others)
            loss = loss + _share(wanted, every_wanted) * ranking
        if model.polarity is not None and predictable.any():
            logit = model.polarity.logits(taste, targets.item, targets.feedback)[predictable]
            levels = torch.tensor(model.polarity.levels, device=logit.device)
            is_reached = targets.feedback[predictable][:, None] <= levels
            share = _share(predictable, every_predictable)
            loss = loss + share * polarity_loss(logit, is_reached).mean()
        return loss

    def _choices(self, batch: TrainingBatch) -> tuple[Tensor, Tensor]:
        """Which targets have a polarity to predict, and which are to be ranked, ``[T, K]``."""
        targets, predictable = batch.targets, batch.targets.exists
        if self._model.sequence_encoder is None and batch.sees_graph is not None:
            # The graph is the only input of these encoders.
            predictable = predictable & batch.sees_graph[:, None]
        is_target = self._is_target.to(targets.feedback.device)[targets.feedback]
        return predictable, predictable & is_target

    def _samples(
        self, batch: TrainingBatch, wanted: Tensor, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Items for the targets of this process, drawn with those of all processes, ``[N, 1]``."""
        every = batch.whole or batch
        token = wanted.nonzero()[:, 0]
        user = every.sequences.user[every.sequences.row[token]]
        sampled, valid = self._sampler.sample(user.cpu().numpy(), 1, rng)
        others, is_valid = (torch.from_numpy(each).to(user.device) for each in (sampled, valid))
        if batch.own is not None:
            is_own = torch.isin(token, batch.own)
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
) -> Tensor | None:
    """`catalogue_loss` of a feedback sum; None for a batch without a like.

    The mean is over the targets with positive feedback; see `Objective` for several processes.

    Args:
        encoder: The feedback sum.
        batch: A batch of `emorec.training.batches.half_batches`.
        candidates: Draws the items that the softmax sums over; None for the whole catalogue.
        rng: Source of the candidates.
    """
    assert batch.graph is not None
    kinds = torch.tensor([kind in _TARGETS["positive"] for kind in Feedback])

    def likes(targets: Targets) -> Tensor:
        return targets.exists & kinds.to(targets.feedback.device)[targets.feedback]

    wanted = likes(batch.targets)
    every = wanted if batch.whole is None else likes(batch.whole.targets)
    if not every.any():
        return None
    drawn = draw_candidates(candidates, rng)
    if not wanted.any():
        return torch.zeros((), device=wanted.device)
    ranked = wanted.any(1)
    x = encoder(batch.graph)[batch.user_node][batch.sequences.row][ranked]
    items, bias, target = encoder.target.weight, encoder.bias, batch.targets.item[ranked]
    loss = catalogue_loss(x, items, bias, target, wanted[ranked], candidates, drawn)
    return _share(wanted, every) * loss


def _share(own: Tensor, every: Tensor) -> float:
    """The share of a batch's targets that this process has; 1 where it is the only one."""
    return 1.0 if own is every else int(own.sum()) / int(every.sum())


def draw_candidates(
    candidates: CandidateSampler | None, rng: np.random.Generator
) -> np.ndarray | None:
    """The items that the softmax of a step sums over; None for the whole catalogue."""
    return None if candidates is None else candidates.draw(rng)


def catalogue_loss(
    x: Tensor,
    items: Tensor,
    bias: Tensor | None,
    target: Tensor,
    wanted: Tensor,
    candidates: CandidateSampler | None,
    drawn: np.ndarray | None,
) -> Tensor:
    """Mean cross-entropy over the catalogue, or over candidates drawn from a large one.

    Args:
        x: States, ``[T, D]``.
        items: Vectors of items, ``[I, D]``.
        bias: Biases of items, ``[I]``, or None.
        target: Targets of each state, int64 ``[T, K]``.
        wanted: Which of them count, bool ``[T, K]``, at least one in every row.
        candidates: What drew the items that the softmax sums over, see
            `emorec.training.candidates`; None for the whole catalogue, by
            `emorec.ops.softmax_loss.softmax_loss`.
        drawn: These items, int64 ``[C]``, or None.

    Returns:
        A scalar.
    """
    if candidates is None or drawn is None:
        if bias is not None:  # <(x, 1), (v, b)> = <x, v> + b
            x = torch.cat([x, x.new_ones(len(x), 1)], dim=1)
            items = torch.cat([items, bias[:, None]], dim=1)
        return softmax_loss(x, items, target, wanted)
    sampled = torch.from_numpy(drawn).to(x.device)
    row, own = wanted.nonzero()[:, 0], target[wanted]
    # By operators whose gradients are the same in every run.
    own_scores = (F.embedding(row, x) * F.embedding(own, items)).sum(1)
    own_scores = own_scores + _offset(own, bias, candidates)
    scores = x @ F.embedding(sampled, items).T + _offset(sampled, bias, candidates)
    log_sum = F.embedding(row, scores.logsumexp(1, keepdim=True))[:, 0]
    return sampled_softmax_loss(own_scores, log_sum, torch.isin(own, sampled)).mean()


def _offset(item: Tensor, bias: Tensor | None, candidates: CandidateSampler) -> Tensor:
    """What is added to ``<x, v>`` of each item: its bias, and ``-log pi``."""
    offset = -torch.from_numpy(candidates.log_probability[item.cpu().numpy()]).to(item.device)
    return offset if bias is None else offset + F.embedding(item, bias[:, None])[:, 0]


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


def sampled_softmax_loss(target: Tensor, log_sum: Tensor, is_candidate: Tensor) -> Tensor:
    """Cross-entropy over candidates and the target: ``log(sum_c exp s_c) - s_target``.

    Args:
        target: Score of each target, less the logarithm of its probability of being drawn, see
            `emorec.training.candidates`; ``[N]``.
        log_sum: ``log sum exp`` of the same over the candidates, ``[N]``.
        is_candidate: Whether the target is among them and so in the sum, bool ``[N]``.

    Returns:
        ``[N]``.
    """
    return torch.where(is_candidate, log_sum, torch.logaddexp(log_sum, target)) - target


def polarity_loss(logit: Tensor, is_reached: Tensor) -> Tensor:
    """Binary cross-entropy of "the event is as positive as this, or more", summed over levels.

    Args:
        logit: Log-odds at each of ``M`` levels, ``[T, M]``.
        is_reached: Whether the event was as positive, bool ``[T, M]``.

    Returns:
        ``[T]``.
    """
    loss = F.binary_cross_entropy_with_logits(logit, is_reached.to(logit.dtype), reduction="none")
    return loss.sum(-1)
