"""Attention over the edges of a graph, without anything per edge that is kept.

For an edge from u to v and each head, with ``t_uv = l_u + r_v``:

    a_uv = exp(leaky_relu(t_uv)) / sum_u exp(leaky_relu(t_uv))        m_v = sum_u a_uv x_u

The leaky ReLU is linear on both sides of its bend. So the gradients need two sums over each
target's edges, which the forward makes, and two over each source's: of all edges, and of those
above the bend. With ``g`` the gradient of ``m``, ``c_v = <g_v, m_v>`` and ``s_uv`` the slope:

    dx_u = sum_v a_uv g_v
    dl_u = <sum_v a_uv s_uv g_v, x_u> - sum_v a_uv s_uv c_v
    dr_v = <g_v, sum_u a_uv s_uv x_u> - c_v sum_u a_uv s_uv

`graph_attention` runs the compiled operator where it is there, else its plain PyTorch twin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from emorec.ops.library import Backend, runs_fused_on_cpu
from emorec.ops.segments import segment_sum, sum_bags

__all__ = ["graph_attention"]

SLOPE = 0.2  # of the leaky ReLU below its bend (GAT, section 3.3)


def graph_attention(
    x: Tensor,
    left: Tensor,
    right: Tensor,
    offsets: Tensor,
    source: Tensor,
    source_offsets: Tensor,
    target: Tensor,
    backend: Backend = "auto",
) -> Tensor:
    """Attention-weighted sums over each target's edges, see the module's formula.

    The edges come in both orders, by target for the forward and by source for the backward: nothing
    is ever scattered, and results do not depend on the number of threads. The compiled operator is
    for a CPU, in float32 and float64; "auto" runs the reference for all else.

    Args:
        x: Values of the sources, ``[U, H, N]``.
        left: The sources' part of the logits, ``l``, ``[U, H]``.
        right: The targets' part, ``r``, ``[V, H]``.
        offsets: Where each target's edges begin and end, int32 ``[V + 1]``.
        source: The sources of edges sorted by target, int32 ``[E]``.
        source_offsets: Where each source's edges begin and end, int32 ``[U + 1]``.
        target: The targets of edges sorted by source, int32 ``[E]``.
        backend: "reference" (plain PyTorch), "fused" (the compiled operator) or "auto".

    Returns:
        ``m``, ``[V, H, N]``, zeros for a target without edges; differentiable once.

    Raises:
        ValueError: If there is no such backend.
        RuntimeError: If ``backend="fused"`` is asked for and not there.

    References:
        P. Velickovic et al.: Graph Attention Networks, ICLR 2018, arXiv:1710.10903.
    """
    fused = runs_fused_on_cpu(backend, "attention", x)
    return _GraphAttention.apply(x, left, right, offsets, source, source_offsets, target, fused)


class _GraphAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        left: Tensor,
        right: Tensor,
        offsets: Tensor,
        source: Tensor,
        source_offsets: Tensor,
        target: Tensor,
        fused: bool,
    ) -> Tensor:
        inputs = x.contiguous(), left.contiguous(), right.contiguous()
        run = torch.ops.emorec.graph_attention_fwd if fused else _forward
        output, above, totals = run(*inputs, offsets, source, SLOPE)
        ctx.save_for_backward(*inputs, source_offsets, target, output, above, totals)
        ctx.fused = fused
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = *ctx.saved_tensors, SLOPE
        run: Callable[..., Any] = torch.ops.emorec.graph_attention_bwd if ctx.fused else _backward
        grads = run(grad.contiguous(), *saved)
        return *grads, None, None, None, None, None


def _forward(
    x: Tensor, left: Tensor, right: Tensor, offsets: Tensor, source: Tensor, slope: float
) -> tuple[Tensor, Tensor, Tensor]:
    """``m``, its part above the bend, and what the backward needs of the softmax ``[V, 3, H]``."""
    target = torch.repeat_interleave(offsets.diff())
    outputs, parts_above, totals = [], [], []
    for values, of_source, of_target in _heads(x, left, right):
        t = of_source.index_select(0, source).add_(of_target.index_select(0, target))  # [E]
        logit = F.leaky_relu(t, slope)
        largest = torch.segment_reduce(logit, "max", offsets=offsets, unsafe=True)  # [V]
        weight = logit.sub_(largest.index_select(0, target)).exp_()
        weight_above = weight.where(t > 0, 0)
        total, share = (segment_sum(each, offsets) for each in (weight, weight_above))
        inverse = total.reciprocal().masked_fill_(total == 0, 0)  # of targets without edges
        outputs.append(sum_bags(source, values, offsets, weight).mul_(inverse[:, None]))
        parts_above.append(sum_bags(source, values, offsets, weight_above).mul_(inverse[:, None]))
        totals.append(torch.stack([largest, inverse, share * inverse], dim=1))
    return torch.stack(outputs, 1), torch.stack(parts_above, 1), torch.stack(totals, 2)


def _backward(
    grad: Tensor,
    x: Tensor,
    left: Tensor,
    right: Tensor,
    source_offsets: Tensor,
    target: Tensor,
    output: Tensor,
    above: Tensor,
    totals: Tensor,
    slope: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of ``x``, ``l`` and ``r``."""
    source = torch.repeat_interleave(source_offsets.diff())
    dot = (grad * output).sum(2)  # c, [V, H]
    # Over all edges, <g, m> - c is 0: what is above the bend is all that is left.
    grad_right = (1 - slope) * ((grad * above).sum(2) - dot * totals[:, 2])
    grad_x, grad_left = torch.empty_like(x), torch.empty_like(left)
    for h, (values, of_source, of_target) in enumerate(_heads(x, left, right)):
        g = grad[:, h].contiguous()
        largest, inverse, c = (
            each[:, h].index_select(0, target) for each in (totals[:, 0], totals[:, 1], dot)
        )
        t = of_source.index_select(0, source).add_(of_target.index_select(0, target))
        weight = F.leaky_relu(t, slope).sub_(largest).exp_().mul_(inverse)
        weight_above = weight.where(t > 0, 0)
        grad_x[:, h] = sum_bags(target, g, source_offsets, weight)
        sloped = weight.mul_(slope).add_(weight_above, alpha=1 - slope)
        sums = slope * grad_x[:, h] + (1 - slope) * sum_bags(
            target, g, source_offsets, weight_above
        )
        grad_left[:, h] = (sums * values).sum(1) - segment_sum(sloped.mul_(c), source_offsets)
    return grad_x, grad_left, grad_right


def _heads(x: Tensor, left: Tensor, right: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """``x``, ``l`` and ``r`` of each head, contiguous."""
    for parts in zip(x.unbind(1), left.unbind(1), right.unbind(1), strict=True):
        values, of_source, of_target = (part.contiguous() for part in parts)
        yield values, of_source, of_target
