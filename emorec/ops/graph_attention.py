"""Attention over the edges of a graph, without keeping anything per edge.

For an edge from u to v and each head, with ``t_uv = l_u + r_v``:

    a_uv = exp(leaky_relu(t_uv)) / sum_u exp(leaky_relu(t_uv))        m_v = sum_u a_uv x_u

The leaky ReLU is linear on both sides of its bend. So the gradients need two sums over each
target's edges, which the forward makes, and two over each source's: of all edges, and of those
above the bend. With ``g`` the gradient of ``m``, ``c_v = <g_v, m_v>`` and ``s_uv`` the slope:

    dx_u = sum_v a_uv g_v
    dl_u = <sum_v a_uv s_uv g_v, x_u> - sum_v a_uv s_uv c_v
    dr_v = <g_v, sum_u a_uv s_uv x_u> - c_v sum_u a_uv s_uv
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from emorec.ops.library import Backend, runs_fused_on_cpu
from emorec.ops.registration import declare, differentiable
from emorec.ops.segments import segment_sum, sum_bags

__all__ = ["graph_attention", "graph_attention_ref"]

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

    The edges are given in both orders, by target for the forward and by source for the backward:
    sums are never scattered, and results do not depend on the number of threads. The compiled
    operator is for a CPU, in float32 and float64; "auto" runs the reference for all else.

    Equivalent to, where ``target_of`` are the targets of the edges sorted by target:

        target_of = torch.repeat_interleave(offsets.diff())
        weight = F.leaky_relu(left[source] + right[target_of], 0.2).exp()  # [E, H]
        weight = weight / torch.zeros_like(right).index_add(0, target_of, weight)[target_of]
        output = x.new_zeros(len(right), *x.shape[1:])
        output.index_add(0, target_of, weight[..., None] * x[source])

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
        RuntimeError: If ``backend="fused"`` is requested but not available.

    References:
        P. Velickovic et al.: Graph Attention Networks, ICLR 2018, arXiv:1710.10903.
    """
    arguments = (
        x.contiguous(),
        left.contiguous(),
        right.contiguous(),
        offsets,
        source,
        source_offsets,
        target,
    )
    if not runs_fused_on_cpu(backend, "attention", x):
        return graph_attention_ref(*arguments)
    output, _, _ = torch.ops.emorec.graph_attention_fwd(*arguments, SLOPE)
    return output


def graph_attention_ref(
    x: Tensor,
    left: Tensor,
    right: Tensor,
    offsets: Tensor,
    source: Tensor,
    source_offsets: Tensor,
    target: Tensor,
) -> Tensor:
    """Plain PyTorch twin of `graph_attention`, head by head."""
    output, _, _ = _graph_attention_ref(
        x, left, right, offsets, source, source_offsets, target, SLOPE
    )
    return output


def _forward_ref(
    x: Tensor,
    left: Tensor,
    right: Tensor,
    offsets: Tensor,
    source: Tensor,
    source_offsets: Tensor,
    target: Tensor,
    slope: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """``m``, its part above the bend, and what the backward needs of the softmax ``[V, 3, H]``."""
    target_of = torch.repeat_interleave(offsets.diff())
    outputs, parts_above, totals = [], [], []
    for values, of_source, of_target in _heads(x, left, right):
        t = of_source.index_select(0, source).add_(of_target.index_select(0, target_of))  # [E]
        logit = F.leaky_relu(t, slope)
        largest = torch.segment_reduce(logit, "max", offsets=offsets, unsafe=True)  # [V]
        weight = logit.sub_(largest.index_select(0, target_of)).exp_()
        weight_above = weight.where(t > 0, 0)
        total, share = (segment_sum(each, offsets) for each in (weight, weight_above))
        inverse = total.reciprocal().masked_fill_(total == 0, 0)  # of targets without edges
        outputs.append(sum_bags(source, values, offsets, weight).mul_(inverse[:, None]))
        parts_above.append(sum_bags(source, values, offsets, weight_above).mul_(inverse[:, None]))
        totals.append(torch.stack([largest, inverse, share * inverse], dim=1))
    return torch.stack(outputs, 1), torch.stack(parts_above, 1), torch.stack(totals, 2)


def _gradients_ref(
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


def _fake_forward(
    x: Tensor, left: Tensor, right: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    num_targets, num_heads = right.shape
    output = x.new_empty(num_targets, num_heads, x.shape[2])
    return output, torch.empty_like(output), x.new_empty(num_targets, 3, num_heads)


def _fake_backward(
    grad_output: Tensor, x: Tensor, left: Tensor, right: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(left), torch.empty_like(right)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, left, right, _, _, source_offsets, target, ctx.slope = inputs
    ctx.save_for_backward(x, left, right, source_offsets, target, *output)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return _backward_by(torch.ops.emorec.graph_attention_bwd, ctx, grad)


def _backward_ref(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return _backward_by(_gradients_ref, ctx, grad)


def _backward_by(
    gradients: Callable[..., tuple[Tensor, ...]], ctx: Any, grad: Tensor
) -> tuple[Tensor | None, ...]:
    grads = gradients(grad.contiguous(), *ctx.saved_tensors, ctx.slope)
    return *grads, None, None, None, None, None


declare("graph_attention_fwd", _fake_forward, _setup_context, _backward)
declare("graph_attention_bwd", _fake_backward)
_graph_attention_ref = differentiable(_forward_ref, _setup_context, _backward_ref)
