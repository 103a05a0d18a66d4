"""Cross-entropy over the catalogue, or over candidates drawn from a large one.

Where the catalogue is divided over processes, each one scores its own items for the states of all
processes:

    log_sum_t = m_t + log(sum over processes of sum over own items of exp(s_ti - m_t))

with ``m_t`` the largest score of any process. The score of a target comes from the process that has
the item.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from emorec.ops.rows import take_rows
from emorec.ops.softmax_loss import softmax_loss
from emorec.training.candidates import CandidateSampler
from emorec.training.sharding import ItemShards

__all__ = [
    "catalogue_loss",
    "draw_candidates",
    "sampled_softmax_loss",
    "sharded_catalogue_loss",
]


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
    own_scores = (take_rows(x, row) * take_rows(items, own)).sum(1)
    own_scores = own_scores + _offset(own, bias, candidates)
    scores = x @ take_rows(items, sampled).T + _offset(sampled, bias, candidates)
    log_sum = take_rows(scores.logsumexp(1, keepdim=True), row)[:, 0]
    return sampled_softmax_loss(own_scores, log_sum, torch.isin(own, sampled)).mean()


def _offset(item: Tensor, bias: Tensor | None, candidates: CandidateSampler) -> Tensor:
    """What is added to ``<x, v>`` of each item: its bias, and ``-log pi``."""
    offset = -torch.from_numpy(candidates.log_probability[item.cpu().numpy()]).to(item.device)
    return offset if bias is None else offset + take_rows(bias[:, None], item)[:, 0]


def sharded_catalogue_loss(
    x: Tensor,
    place: Tensor,
    items: Tensor,
    bias: Tensor | None,
    token: Tensor,
    item: Tensor,
    candidates: CandidateSampler | None,
    drawn: np.ndarray | None,
    shards: ItemShards,
) -> Tensor:
    """This process's part of `catalogue_loss` where items are divided over processes.

    The parts of all processes add up to the mean over the targets of all. Every process must take
    part, and call `backward`, though it may have no state.

    Args:
        x: States of this process, ``[N, D]``.
        place: Their tokens among those of all processes, ascending, int64 ``[N]``.
        items: Vectors of this process's items.
        bias: Their biases, or None.
        token: Token of each target of all processes, ascending, int64 ``[M]``.
        item: Its item, int64 ``[M]``.
        candidates: As in `catalogue_loss`.
        drawn: As in `catalogue_loss`.
        shards: Which items this process has.

    Returns:
        A scalar.
    """
    ranked, row = token.unique(return_inverse=True)
    place = torch.searchsorted(ranked, place)
    states = x.new_zeros(len(ranked), x.shape[1]).index_copy(0, place, x)
    states = shards.world.total(states)  # of all tokens that have targets

    def offset(items: Tensor) -> Tensor | float:
        own = 0.0 if bias is None else take_rows(bias[:, None], items - shards.start)[:, 0]
        if candidates is None:
            return own
        log_probability = torch.from_numpy(candidates.log_probability[items.cpu().numpy()])
        return own - log_probability.to(items.device)

    columns = torch.arange(shards.start, shards.stop, device=x.device)
    if drawn is not None:
        columns = torch.from_numpy(drawn[shards.has(drawn)]).to(x.device)
        items_of_columns = take_rows(items, columns - shards.start)
    else:
        items_of_columns = items
    scores = states @ items_of_columns.T + offset(columns)
    largest = scores.new_full((len(scores),), -torch.inf)
    if len(columns):
        largest = scores.detach().amax(1)
    shards.world.maximum(largest)
    is_mine = shards.has(item)
    mine, own = is_mine.nonzero()[:, 0], item[is_mine]
    of_target = (take_rows(states, row[mine]) * take_rows(items, own - shards.start)).sum(1)
    of_target = scores.new_zeros(len(item)).index_copy(0, mine, of_target + offset(own))
    sums = (scores - largest[:, None]).exp().sum(1)
    sums, of_target = shards.world.total(torch.cat([sums, of_target])).split([len(sums), len(item)])
    log_sum = take_rows((largest + sums.log())[:, None], row)[:, 0]
    if drawn is None:
        losses = log_sum - of_target
    else:
        is_candidate = torch.isin(item, torch.from_numpy(drawn).to(item.device))
        losses = sampled_softmax_loss(of_target, log_sum, is_candidate)
    return losses[torch.isin(row, place)].sum() / len(item)


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
