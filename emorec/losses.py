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


def softmax_loss(state: Tensor, items: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy over the whole catalogue: ``log sum_i exp(<x, v_i>) - <x, v_target>``.

    The scores ``[T, I]`` never exist as a whole: rows are taken in chunks that fit a cache, and
    the gradient is computed with them, which needs no second pass.

    Args:
        state: States ``x``, ``[T, D]``.
        items: Item embeddings ``v``, ``[I, D]``.
        target: Index of the item that was chosen, int64 ``[T]``, ``T`` at least 1.

    Returns:
        A scalar; differentiable once.
    """
    return _SoftmaxLoss.apply(state, items, target)


def polarity_loss(logit: Tensor, is_positive: Tensor) -> Tensor:
    """Binary cross-entropy of "the next event is positive".

    Args:
        logit: Log-odds, ``[T]``.
        is_positive: What it was, bool ``[T]``.

    Returns:
        ``[T]``.
    """
    return F.binary_cross_entropy_with_logits(logit, is_positive.to(logit.dtype), reduction="none")


class _SoftmaxLoss(torch.autograd.Function):
    """Mean cross-entropy and its gradient, chunk by chunk.

    With ``p = softmax(x V^T)`` and ``T`` rows: ``T dx = p V - v_target`` and
    ``T dV = p^T x``, less ``x`` at the target's row.
    """

    @staticmethod
    def forward(ctx: Any, state: Tensor, items: Tensor, target: Tensor) -> Tensor:
        total = state.new_zeros(())
        grad_state, grad_items = torch.empty_like(state), torch.zeros_like(items)
        rows = max(1, _CHUNK_SCORES // len(items))
        for start in range(0, len(state), rows):
            x, place = state[start : start + rows], target[start : start + rows, None]
            scores = x @ items.T
            error = torch.softmax(scores, dim=1)
            # The log of the sum from the most probable item: one pass less than logsumexp.
            log_sum = scores.amax(1) - error.amax(1).log()
            total += (log_sum - scores.gather(1, place)[:, 0]).sum()
            error.scatter_add_(1, place, error.new_full(place.shape, -1.0))
            torch.mm(error, items, out=grad_state[start : start + rows])
            grad_items.addmm_(error.T, x)
        ctx.save_for_backward(grad_state, grad_items)
        ctx.num_rows = len(state)
        return total / len(state)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        grad_state, grad_items = ctx.saved_tensors
        factor = grad / ctx.num_rows
        return grad_state * factor, grad_items * factor, None
