"""Heads that predict whether a user will like what comes next."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emorec.data.feedback import Feedback
from emorec.data.interactions import Interactions
from emorec.data.sequences import SequenceBatch

__all__ = ["ItemPolarity", "NextPolarity"]


class NextPolarity(nn.Module):
    """Polarity of the next event, whatever its item (paper, 3.3).

        logit P(positive | x) = <w, x> + b

    Args:
        size: Width of states, ``D``.
    """

    levels = (Feedback.IMPLICIT_POSITIVE,)
    """Kinds at least as pleased as these have a log-odds of their own, ``M`` in all."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.project = nn.Linear(size, 1)

    def taste(self, state: Tensor, vector: Tensor | None, batch: SequenceBatch) -> Tensor:
        """What the head looks at: the state itself."""
        return state

    def logits(self, taste: Tensor, items: Tensor, feedback: Tensor | None = None) -> Tensor:
        """Log-odds that an event is at least as positive as each level.

        Args:
            taste: States ``x``, ``[T, D]``.
            items: Items of the events, int64 ``[T, K]``; not looked at.
            feedback: Not looked at.

        Returns:
            ``[T, K, M]``.
        """
        return self.project(taste)[:, None].expand(*items.shape, 1)


class ItemPolarity(nn.Module):
    """How well an event with a given item goes down, judged by all events before it.

    A user is what the user reacted to. After ``n`` events with items ``j`` and kinds ``k_j``,

        r   = sum_j w_kj / (n + 5)                                   how the user tends to react
        p   = sum_j ((w_kj - r_j) x_j + y_j) / sqrt(n + 10) + W g
        m_i = sum_k w_k ((n_ik + 10 f_k) / (n_i + 10) - f_k)         how others react to the item
        s_i = a m_i + b_i + c r + <p, q_i>
        logit P(kind as positive as k or more | i) = s_i - theta_k

    where ``r_j`` is ``r`` just after event ``j``; ``g`` is the graph's vector of the user, if any,
    scaled to length 1; and ``n_ik`` counts the events of kind ``k`` with item ``i`` in a log, where
    ``n_i`` is their sum over kinds and ``f_k`` the share of kind ``k`` among all events.

    Each kind of feedback has a learned weight ``w``, so that what a user loved attracts its like
    and what bored or annoyed them repels it; the sum over a kind is that of its feedback node. The
    weights are scaled so that the largest is 1: free, they grow and undo the decay of the vectors
    that they multiply. The four kinds are ordered, and so are the thresholds; all four teach
    ``s``, which a single "liked or not" would teach less. An event that teaches is left out of its
    own item's counts, or part of the answer would be known: with its kind ``k``,

        m_i without it = m_i + (m_i + sum_l w_l f_l - w_k) / (n_i + 9)

    Items have vectors of their own: those of the ranking say which events are likely, and people
    also meet, in numbers, what they do not like. For the same reason the sequence encoder's state
    is left out: with it, what is learned by heart outweighs what holds for others. And ``m`` is
    counted, since an embedding of an item with few events is mostly noise: where items have some
    ten events each, ``m`` is all that can be known of them.

    Args:
        num_items: Size of the catalogue, ``I``.
        size: Width of the graph's vectors, ``D``.
        rank: Width of the taste, ``R``.

    References:
        Y. Koren: Factorization Meets the Neighborhood: a Multifaceted Collaborative Filtering
        Model, KDD 2008 (users as sums over their ratings). P. McCullagh: Regression Models for
        Ordinal Data, Journal of the Royal Statistical Society B 42(2), 1980.
    """

    levels = (Feedback.EXPLICIT_POSITIVE, Feedback.IMPLICIT_POSITIVE, Feedback.IMPLICIT_NEGATIVE)
    FEW_REACTIONS, FEW_EVENTS = 5, 10  # fewer say little about a user
    FEW_WITH_ITEM = 10  # fewer say little about an item

    reception: Tensor  # [I, 4]; what w is multiplied by in m
    count: Tensor  # n_i, [I]; in training only, as the next one
    share: Tensor  # f_k, [4]

    def __init__(self, num_items: int, size: int, rank: int = 16) -> None:
        super().__init__()
        self.item = nn.Embedding(num_items, 1 + rank)  # b and q
        self.reaction = nn.Embedding(num_items, rank)  # x
        self.presence = nn.Embedding(num_items, rank)  # y
        self.weight = nn.Parameter(torch.tensor([1.0, 0.3, -0.3, -1.0]))  # w, before it is scaled
        self.reputation = nn.Parameter(torch.tensor(1.5))  # a
        self.tendency = nn.Parameter(torch.tensor(1.5))  # c
        self.threshold = nn.Parameter(torch.tensor([0.7, -0.7, -2.0]))  # theta, of each level
        self.project = nn.Linear(size, rank, bias=False)  # W
        nn.init.normal_(self.item.weight, std=0.1)
        nn.init.zeros_(self.item.weight[:, 0])
        nn.init.normal_(self.reaction.weight, std=0.1)
        nn.init.zeros_(self.presence.weight)
        nn.init.zeros_(self.project.weight)
        self.register_buffer("reception", torch.zeros(num_items, len(Feedback)))
        self.register_buffer("count", torch.zeros(num_items), persistent=False)
        self.register_buffer("share", torch.zeros(len(Feedback)), persistent=False)

    def remember(self, log: Interactions) -> None:
        """Counts what each item met with in a log; until then ``m`` is 0."""
        kinds = len(Feedback)
        cells = log.item.astype(np.int64) * kinds + log.feedback
        count = np.bincount(cells, minlength=log.num_items * kinds).reshape(-1, kinds)  # n_ik
        share = count.sum(0) / max(count.sum(), 1)  # f_k
        few = self.FEW_WITH_ITEM
        met = (count + few * share) / (count.sum(1, keepdims=True) + few)
        self.reception.copy_(torch.from_numpy(met - share))
        self.count.copy_(torch.from_numpy(count.sum(1)))
        self.share.copy_(torch.from_numpy(share))

    def tables(self) -> list[Tensor]:
        """What has many numbers and few events to learn them from."""
        return [table.weight for table in (self.item, self.reaction, self.presence, self.project)]

    def taste(self, state: Tensor | None, vector: Tensor | None, batch: SequenceBatch) -> Tensor:
        """What the user likes after each token.

        Args:
            state: Not looked at.
            vector: The graph's vector of the user, ``[T, D]``, or None without a graph.
            batch: Their sequences.

        Returns:
            ``c r`` and ``p``, ``[T, 1 + R]``.
        """
        is_event = batch.position > 0
        count = batch.position[:, None].to(self.weight.dtype)
        item = batch.item.clamp(min=0)
        weight = self._weight_of(batch.feedback.clamp(min=0)) * is_event
        tendency = _sums_so_far(weight[:, None], batch) / (count + self.FEW_REACTIONS)
        pull = (weight[:, None] - tendency) * F.embedding(item, self.reaction.weight)
        pull = (pull + F.embedding(item, self.presence.weight)) * is_event[:, None]
        p = _sums_so_far(pull, batch) / (count + self.FEW_EVENTS).sqrt()
        if vector is not None:
            p = p + self.project(F.normalize(vector, dim=1))
        return torch.cat([self.tendency * tendency, p], dim=1)

    def logits(self, taste: Tensor, items: Tensor, feedback: Tensor | None = None) -> Tensor:
        """Log-odds that an event is at least as positive as each level, see `NextPolarity`.

        Args:
            taste: What `taste` returned, ``[T, 1 + R]``.
            items: Item indices, int64 ``[T, K]``.
            feedback: What kinds of feedback the events are, int64 ``[T, K]``, if they are in the
                log of `remember`; each is then left out of what is counted for it.

        Returns:
            ``[T, K, M]``.
        """
        vectors = F.embedding(items, self._item_vectors())
        score = torch.einsum("tr,tkr->tk", taste[:, 1:], vectors[..., 1:])
        score = score + taste[:, :1] + vectors[..., 0]
        if feedback is not None:
            mean = F.embedding(items, (self._reception() + self._weights() @ self.share)[:, None])
            own = self._weight_of(feedback)
            others = self.count[items] + (self.FEW_WITH_ITEM - 1)
            score = score + self.reputation * (mean[..., 0] - own) / others
        return score[..., None] - self.threshold

    def log_probability(self, taste: Tensor) -> Tensor:
        """``log P(positive | i)`` for every item, ``[T, 1 + R]`` -> ``[T, I]``."""
        vectors = self._item_vectors()
        score = taste[:, 1:] @ vectors[:, 1:].T + taste[:, :1] + vectors[:, 0]
        return F.logsigmoid(score - self.threshold[1])

    def _item_vectors(self) -> Tensor:
        """``a m + b`` and ``q``, ``[I, 1 + R]``."""
        bias, q = self.item.weight[:, :1], self.item.weight[:, 1:]
        esteem = self.reputation * self._reception()
        return torch.cat([esteem[:, None] + bias, q], dim=1)

    def _reception(self) -> Tensor:
        """``m``, ``[I]``."""
        return self.reception @ self._weights()

    def _weights(self) -> Tensor:
        """``w``, of each kind of feedback."""
        return self.weight / self.weight.abs().max()

    def _weight_of(self, feedback: Tensor) -> Tensor:
        """``w`` of each event's kind; by an operator whose gradient is the same in every run."""
        return F.embedding(feedback, self._weights()[:, None])[..., 0]


def _sums_so_far(values: Tensor, batch: SequenceBatch) -> Tensor:
    """Sums over the tokens of a sequence up to each one, ``[T, N]``; [CLS] must have zeros.

    In float64: the sum runs over the whole batch, and each sequence takes off what came before.
    """
    sums = values.double().cumsum(0)
    return (sums - sums[batch.cu_seqlens[:-1]][batch.row]).to(values.dtype)
