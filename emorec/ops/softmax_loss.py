"""Cross-entropy over a whole catalogue, without the scores of all states at once.

For states ``x_t``, items ``v_i`` and a state's targets ``y``, ``n_t`` of them and ``N`` in all:

    p_ti = exp <x_t, v_i> / sum_j exp <x_t, v_j>       loss = -1/N sum_t sum_y log p_ty
    e_ti = (n_t p_ti - targets of t that are i) / N    dx_t = sum_i e_ti v_i
                                                       dv_i = sum_t e_ti x_t

States are taken in chunks whose errors ``e`` fit a cache. The forward computes the gradients too,
while the errors are there, which saves a second pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from emorec.ops.library import Backend, runs_fused_on_cpu
from emorec.ops.registration import declare, differentiable

__all__ = ["softmax_loss", "softmax_loss_ref"]

# Scores that the reference holds at a time: on a CPU about a cache. A GPU wants few, large kernels.
_CHUNK_SCORES, _CHUNK_SCORES_ON_GPU = 2**19, 2**26


def softmax_loss(
    state: Tensor, items: Tensor, target: Tensor, wanted: Tensor, backend: Backend = "auto"
) -> Tensor:
    """Mean cross-entropy over the whole catalogue, see the module's formula.

    A state may have several targets: they share its scores, so that each costs next to nothing.
    Results do not depend on the number of threads. The compiled operator is for a CPU, in float32
    and float64; "auto" runs the reference for all else.

    Equivalent to:

        row = wanted.nonzero()[:, 0]
        F.cross_entropy((state @ items.T)[row], target[wanted])

    Args:
        state: States ``x``, ``[T, D]``.
        items: Item embeddings ``v``, ``[I, D]``.
        target: Indices of the targets, int64 ``[T, K]``.
        wanted: Which of them count, bool ``[T, K]``, at least one in every row.
        backend: "reference" (plain PyTorch), "fused" (the compiled operator) or "auto".

    Returns:
        A scalar, the mean over the targets that count; differentiable once.

    Raises:
        ValueError: If there is no such backend, or no state.
        RuntimeError: If ``backend="fused"`` is requested but not available.
    """
    if not len(state):
        raise ValueError("state must have at least one row: the mean over no target is undefined")
    if not runs_fused_on_cpu(backend, "loss", state):
        return softmax_loss_ref(state, items, target, wanted)
    arguments = (each.contiguous() for each in (state, items, target, wanted))
    loss, _, _ = torch.ops.emorec.softmax_loss(*arguments)
    return loss.to(state.dtype)


def softmax_loss_ref(state: Tensor, items: Tensor, target: Tensor, wanted: Tensor) -> Tensor:
    """Plain PyTorch twin of `softmax_loss`."""
    loss, _, _ = _loss_and_gradients(state, items, target, wanted)
    return loss


def _forward_ref(
    state: Tensor, items: Tensor, target: Tensor, wanted: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss and the gradients of ``state`` and ``items``, chunk by chunk.

    Under autocast the products alone are of its precision.
    """
    total = state.new_zeros(())
    grad_state, grad_items = torch.empty_like(state), torch.zeros_like(items)
    count = wanted.sum(1, keepdim=True).to(state.dtype)  # n, [T, 1]
    share = wanted / count  # [T, K]
    most = _CHUNK_SCORES if state.device.type == "cpu" else _CHUNK_SCORES_ON_GPU
    num_rows = max(1, most // len(items))
    for start in range(0, len(state), num_rows):
        rows = slice(start, start + num_rows)
        x, place = state[rows], target[rows]
        scores = x @ items.T
        error = torch.softmax(scores, dim=1, dtype=state.dtype)
        # The log of the sum from the most probable item: one pass less than logsumexp.
        log_sum = scores.amax(1) - error.amax(1).log()
        gain = (share[rows] * scores.gather(1, place)).sum(1)
        total += torch.dot(count[rows, 0], log_sum - gain)
        error.scatter_add_(1, place, -share[rows])
        grad_state[rows] = error @ items
        grad_items += error.T @ (x * count[rows])
    num_targets = count.sum()
    return total / num_targets, grad_state * (count / num_targets), grad_items / num_targets


def _fake(
    state: Tensor, items: Tensor, target: Tensor, wanted: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    loss = state.new_empty((), dtype=torch.float64)
    return loss, torch.empty_like(state), torch.empty_like(items)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, grad_state, grad_items = output
    ctx.save_for_backward(grad_state, grad_items)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    grad_state, grad_items = ctx.saved_tensors
    return grad_state * grad, grad_items * grad, None, None


declare("softmax_loss", _fake, _setup_context, _backward)
_loss_and_gradients = differentiable(_forward_ref, _setup_context, _backward)
