"""Cross-entropy over a whole catalogue, without the scores of all states at once.

For states ``x_t``, items ``v_i`` and a state's targets ``y``, ``n_t`` of them and ``N`` in all:

    p_ti = exp <x_t, v_i> / sum_j exp <x_t, v_j>       loss = -1/N sum_t sum_y log p_ty
    e_ti = (n_t p_ti - targets of t that are i) / N    dx_t = sum_i e_ti v_i
                                                       dv_i = sum_t e_ti x_t

States are taken in chunks whose errors ``e`` fit a cache, and the gradients are made while they
are there, which needs no second pass. `softmax_loss` runs the compiled operator where it is there,
else its plain PyTorch twin.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from emorec.ops.library import Backend, runs_fused_on_cpu

__all__ = ["softmax_loss"]

_CHUNK_SCORES = 2**19  # scores held at a time by the reference: 2 MiB, about a cache


def softmax_loss(
    state: Tensor, items: Tensor, target: Tensor, wanted: Tensor, backend: Backend = "auto"
) -> Tensor:
    """Mean cross-entropy over the whole catalogue, see the module's formula.

    A state may have several targets; they share its scores, so that more of them cost next to
    nothing. Results do not depend on the number of threads. The compiled operator is for a CPU, in
    float32 and float64; "auto" runs the reference for all else.

    Args:
        state: States ``x``, ``[T, D]``.
        items: Item embeddings ``v``, ``[I, D]``.
        target: Indices of items that were chosen, int64 ``[T, K]``.
        wanted: Which of them count, bool ``[T, K]``, at least one in every row.
        backend: "reference" (plain PyTorch), "fused" (the compiled operator) or "auto".

    Returns:
        A scalar, the mean over the targets that count; differentiable once.

    Raises:
        ValueError: If there is no such backend, or no state.
        RuntimeError: If ``backend="fused"`` is asked for and not there.
    """
    if not len(state):
        raise ValueError("state must have at least one row: the mean over no target is undefined")
    return _SoftmaxLoss.apply(
        state, items, target, wanted, runs_fused_on_cpu(backend, "loss", state)
    )


class _SoftmaxLoss(torch.autograd.Function):
    """The forward makes the gradients too; the backward has but to scale them."""

    @staticmethod
    def forward(
        ctx: Any, state: Tensor, items: Tensor, target: Tensor, wanted: Tensor, fused: bool
    ) -> Tensor:
        if fused:
            arguments = (each.contiguous() for each in (state, items, target, wanted))
            loss, grad_state, grad_items = torch.ops.emorec.softmax_loss(*arguments)
        else:
            loss, grad_state, grad_items = _by_chunks(state, items, target, wanted)
        ctx.save_for_backward(grad_state, grad_items)
        return loss.to(state.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        grad_state, grad_items = ctx.saved_tensors
        return grad_state * grad, grad_items * grad, None, None, None


def _by_chunks(
    state: Tensor, items: Tensor, target: Tensor, wanted: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss and its gradients, by PyTorch's own operators."""
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
    num_targets = count.sum()
    return total / num_targets, grad_state * (count / num_targets), grad_items / num_targets
