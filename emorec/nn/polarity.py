"""Polarity heads: they predict a user's feedback on the next event, or on any item."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emorec.data.feedback import Feedback
from emorec.data.interactions import Interactions
from emorec.data.sequences import SequenceBatch
from emorec.ops.rows import take_rows

__all__ = ["ItemPolarity", "NextPolarity"]


class NextPolarity(nn.Module):
    """Polarity of the next event, whatever its item (paper, 3.3).

        logit P(positive | x) = <w, x> + b

    Args:
        size: Width of states, ``D``.
    """

    levels = (Feedback.IMPLICIT_POSITIVE,)
    """The head predicts the log-odds of feedback at least as positive as each, ``M`` in all."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.project = nn.Linear(size, 1)

    def taste(
        self,
        state: Tensor,
        vector: Tensor | None,
        batch: SequenceBatch,
        tokens: Tensor | None = None,
    ) -> Tensor:
        """The input of the head: the state itself."""
        return state

    def logits(self, taste: Tensor, items: Tensor, feedback: Tensor | None = None) -> Tensor:
        """Log-odds that an event is at least as positive as each level.

        Args:
            taste: States ``x``, ``[T, D]``.
            items: Items of the events, int64 ``[T, K]``; not used.
            feedback: Not used.

        Returns:
            ``[T, K, M]``.
        """
        return self.project(taste)[:, None].expand(*items.shape, 1)


class ItemPolarity(nn.Module):
    """Predicts a user's feedback on an item from the user's earlier events.

    After ``n`` events with items ``j`` and kinds of feedback ``k_j``,

        r   = sum_j w_kj / (n + 5)                                       user's mean feedback
        p   = sum_j ((w_kj - r_j) x_j + y_j) / sqrt(n + 10) + W g        taste vector
        m_i = sum_k w_k ((n_ik + 10 f_k) / (n_i + 10) - f_k)             item prior
        s_i = a m_i + b_i + c r + <p, q_i>
        logit P(kind as positive as k or more | i) = s_i - theta_k

    where ``r_j`` is ``r`` just after event ``j``; ``g`` is the graph's vector of the user, if any,
    scaled to length 1; and ``n_ik`` counts the events of kind ``k`` with item ``i`` in a log, where
    ``n_i`` is their sum over kinds and ``f_k`` the share of kind ``k`` among all events.

    Each kind of feedback has a learned weight ``w``: liked items attract similar ones, disliked
    items repel them. The sum over one kind is that of the kind's feedback node. The weights are
    scaled so that the largest is 1; otherwise they grow and undo the weight decay of the vectors
    that they multiply. The four kinds are ordered, as in ordinal regression, and all four train
    ``s``. A training event is left out of the counts of its own item, because they would reveal
    its kind ``k``:

        m_i without it = m_i + (m_i + sum_l w_l f_l - w_k) / (n_i + 9)

    The item vectors are separate from those of the next-item ranking, which encode what users
    interact with, liked or not. The state of the sequence encoder is no input: with it the head
    overfits. ``m`` is counted instead of learned because embeddings of items with few events are
    mostly noise.

    Args:
        num_items: Size of the catalogue, ``I``.
        size: Width of the graph's vectors, ``D``.
        rank: Width of the taste vector, ``R``.

    References:
        Y. Koren: Factorization Meets the Neighborhood: a Multifaceted Collaborative Filtering
        Model, KDD 2008 (users as sums over their ratings). P. McCullagh: Regression Models for
        Ordinal Data, Journal of the Royal Statistical Society B 42(2), 1980.
    """

    levels = (Feedback.EXPLICIT_POSITIVE, Feedback.IMPLICIT_POSITIVE, Feedback.IMPLICIT_NEGATIVE)
    MEAN_SMOOTHING, TASTE_SMOOTHING = 5, 10  # in events of the user
    PRIOR_SMOOTHING = 10  # in events with the item

    prior: Tensor  # [I, 4]; the factors of w in m
    count: Tensor  # n_i, [I]; in training only, as the next one
    share: Tensor  # f_k, [4]

    def __init__(self, num_items: int, size: int, rank: int = 16) -> None:
        super().__init__()
        self.item = nn.Embedding(num_items, 1 + rank)  # b and q
        self.reaction = nn.Embedding(num_items, rank)  # x
        self.presence = nn.Embedding(num_items, rank)  # y
        self.weight = nn.Parameter(torch.tensor([1.0, 0.3, -0.3, -1.0]))  # w, before it is scaled
        self.prior_scale = nn.Parameter(torch.tensor(1.5))  # a
        self.mean_scale = nn.Parameter(torch.tensor(1.5))  # c
        self.threshold = nn.Parameter(torch.tensor([0.7, -0.7, -2.0]))  # theta, of each level
        self.project = nn.Linear(size, rank, bias=False)  # W
        nn.init.normal_(self.item.weight, std=0.1)
        nn.init.zeros_(self.item.weight[:, 0])
        nn.init.normal_(self.reaction.weight, std=0.1)
        nn.init.zeros_(self.presence.weight)
        nn.init.zeros_(self.project.weight)
        self.register_buffer("prior", torch.zeros(num_items, len(Feedback)))
        self.register_buffer("count", torch.zeros(num_items), persistent=False)
        self.register_buffer("share", torch.zeros(len(Feedback)), persistent=False)

    def fit(self, log: Interactions) -> None:
        """Counts the feedback on each item of a log; until then ``m`` is 0."""
        kinds = len(Feedback)
        cells = log.item.astype(np.int64) * kinds + log.feedback
        count = np.bincount(cells, minlength=log.num_items * kinds).reshape(-1, kinds)  # n_ik
        share = count.sum(0) / max(count.sum(), 1)  # f_k
        few = self.PRIOR_SMOOTHING
        smoothed = (count + few * share) / (count.sum(1, keepdims=True) + few)
        self.prior.copy_(torch.from_numpy(smoothed - share))
        self.count.copy_(torch.from_numpy(count.sum(1)))
        self.share.copy_(torch.from_numpy(share))

    def tables(self) -> list[Tensor]:
        """The parameters that need weight decay: one row per item or per dimension."""
        return [table.weight for table in (self.item, self.reaction, self.presence, self.project)]

    def taste(
        self,
        state: Tensor | None,
        vector: Tensor | None,
        batch: SequenceBatch,
        tokens: Tensor | None = None,
    ) -> Tensor:
        """Mean feedback and taste vector of the user after each token, or after some.

        Args:
            state: Not used.
            vector: The graph's vector of the user, ``[T, D]``, or None without a graph.
            batch: Their sequences.
            tokens: Those that are needed, int64 ``[N]``; None: all.

        Returns:
            ``c r`` and ``p``, ``[N, 1 + R]``.
        """
        is_event = batch.position > 0
        count = batch.position[:, None].to(self.weight.dtype)
        item = batch.item.clamp(min=0)
        weight = self._weight_of(batch.feedback.clamp(min=0)) * is_event
        mean = _sums_so_far(weight[:, None], batch) / (count + self.MEAN_SMOOTHING)
        pull = (weight[:, None] - mean) * take_rows(self.reaction.weight, item)
        pull = (pull + take_rows(self.presence.weight, item)) * is_event[:, None]
        projected = None if vector is None else self.project(F.normalize(vector, dim=1))
        p = _sums_so_far(pull, batch, tokens)
        if tokens is not None:
            mean, count = mean[tokens], count[tokens]
            projected = None if projected is None else projected[tokens]
        p = p / (count + self.TASTE_SMOOTHING).sqrt()
        if projected is not None:
            p = p + projected
        return torch.cat([self.mean_scale * mean, p], dim=1)

    def logits(self, taste: Tensor, items: Tensor, feedback: Tensor | None = None) -> Tensor:
        """Log-odds that an event is at least as positive as each level, see `NextPolarity`.

        Args:
            taste: What `taste` returned, ``[T, 1 + R]``.
            items: Item indices, int64 ``[T, K]``.
            feedback: What kinds of feedback the events are, int64 ``[T, K]``, if they are in the
                log of `fit`; each is then left out of what is counted for it.

        Returns:
            ``[T, K, M]``.
        """
        vectors, w = take_rows(self.item.weight, items), self._weights()
        prior = take_rows(self.prior, items) @ w
        # Not by a product of matrices: they would be as small as 1 x R and R x K.
        score = (taste[:, None, 1:] * vectors[..., 1:]).sum(-1)
        score = score + self.prior_scale * prior + vectors[..., 0] + taste[:, :1]
        if feedback is not None:
            mean, own = prior + w @ self.share, self._weight_of(feedback)
            others = take_rows(self.count[:, None], items)[..., 0] + (self.PRIOR_SMOOTHING - 1)
            score = score + self.prior_scale * (mean - own) / others
        return score[..., None] - self.threshold

    def log_probability(self, taste: Tensor, items: slice = slice(None)) -> Tensor:
        """``log P(positive | i)`` for all items, or a slice, ``[T, 1 + R]`` -> ``[T, I]``."""
        vectors = self._item_vectors(items)
        score = taste[:, 1:] @ vectors[:, 1:].T
        score += taste[:, :1]  # in place: new memory takes more time than the sums
        score += vectors[:, 0]
        score -= self.threshold[1]
        return F.logsigmoid(score)

    def _item_vectors(self, items: slice = slice(None)) -> Tensor:
        """``a m + b`` and ``q``, ``[I, 1 + R]``."""
        bias, q = self.item.weight[items, :1], self.item.weight[items, 1:]
        prior = self.prior_scale * self._item_prior(items)
        return torch.cat([prior[:, None] + bias, q], dim=1)

    def _item_prior(self, items: slice = slice(None)) -> Tensor:
        """``m``, ``[I]``."""
        return self.prior[items] @ self._weights()

    def _weights(self) -> Tensor:
        """``w``, of each kind of feedback."""
        return self.weight / self.weight.abs().max()

    def _weight_of(self, feedback: Tensor) -> Tensor:
        """``w`` of each event's kind."""
        return take_rows(self._weights()[:, None], feedback)[..., 0]


def _sums_so_far(values: Tensor, batch: SequenceBatch, tokens: Tensor | None = None) -> Tensor:
    """Sums over the tokens of a sequence up to each one, ``[T, N]``; [CLS] must have zeros.

    In float64: the sum runs over the whole batch, and each sequence takes off what came before.

    Args:
        values: What is summed, ``[T, N]``.
        batch: The sequences.
        tokens: Those whose sums are needed; None: all.
    """
    sums = values.double().cumsum(0)
    before, row = sums[batch.cu_seqlens[:-1]], batch.row
    if tokens is not None:
        sums, row = sums[tokens], row[tokens]
    return (sums - before[row]).to(values.dtype)
