"""Losses of ranking and of polarity."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["bpr_loss", "polarity_loss", "softmax_loss"]

_CHUNK_SCORES = 2**19  # scores held at a time by the softmax loss: 2 MiB, about a cache


def bpr_loss(target: Tensor, others: Tensor) -> Tensor:
    """Bayesian personalised ranking: ``-mean_n log sigmoid(s_target - s_n)``.

    Args:
        target: Score of the item that was chosen, ``[T]``.
        others: Scores of the items it is compared with, ``[T, N]``; -inf leaves one out.

    Returns:
        ``[T]``.

    References:
        S. Rendle et al.: BPR: Bayesian Personalized Ranking from Implicit Feedback, UAI 2009,
        arXiv:1205.2618.
    """
    return -F.logsigmoid(target[:, None] - others).mean(-1)


def softmax_loss(state: Tensor, items: Tensor, target: Tensor, wanted: Tensor) -> Tensor:
    """Mean cross-entropy over the whole catalogue: ``log sum_i exp(<x, v_i>) - <x, v_target>``.

    The scores ``[T, I]`` never exist as a whole: rows are taken in chunks that fit a cache, and
    the gradient is computed with them, which needs no second pass. A state may have several
    targets; they share its scores, so that more of them cost next to nothing.

    Args:
        state: States ``x``, ``[T, D]``.
        items: Item embeddings ``v``, ``[I, D]``.
        target: Indices of items that were chosen, int64 ``[T, K]``.
        wanted: Which of them count, bool ``[T, K]``, at least one in every row.

    Returns:
        A scalar, the mean over the targets that count; differentiable once.
    """
    return _SoftmaxLoss.apply(state, items, target, wanted)


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


class _SoftmaxLoss(torch.autograd.Function):
    """Mean cross-entropy and its gradient, chunk by chunk.

    With ``p = softmax(x V^T)``, ``n_t`` targets of the state ``t`` and ``N`` targets in all, the
    error of its probabilities is ``e_t = p_t - (share of the targets)``, and
    ``N dx_t = n_t e_t V``, ``N dV = sum_t e_t^T (n_t x_t)``.
    """

    @staticmethod
    def forward(ctx: Any, state: Tensor, items: Tensor, target: Tensor, wanted: Tensor) -> Tensor:
        total = state.new_zeros(())
        grad_state, grad_items = torch.empty_like(state), torch.zeros_like(items)
        count = wanted.sum(1, keepdim=True).to(state.dtype)  # n, [T, 1]
        share = wanted / count  # [T, K]
        num_rows = max(1, _CHUNK_SCORES // len(items))
        for start in range(0, len(state), num_rows):
            rows = slice(start, start + num_rows)
            x, place = state[rows], target[rows]
            scores = x @ items.T
            error = torch.softmax(scores, dim=1)
            # The log of the sum from the most probable item: one pass less than logsumexp.
            log_sum = scores.amax(1) - error.amax(1).log()
            gain = (share[rows] * scores.gather(1, place)).sum(1)
            total += torch.dot(count[rows, 0], log_sum - gain)
            error.scatter_add_(1, place, -share[rows])
            torch.mm(error, items, out=grad_state[rows])
            grad_items.addmm_(error.T, x * count[rows])
        ctx.save_for_backward(grad_state.mul_(count), grad_items)
        ctx.num_targets = count.sum()
        return total / ctx.num_targets

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_state, grad_items = ctx.saved_tensors
        factor = grad / ctx.num_targets
        return grad_state * factor, grad_items * factor, None, None
