"""Update of a graph's nodes: projections, ELU and layer norm in one pass over the rows.

For a node v of kind k, with a vector ``x_v`` of its own and ``J`` vectors ``z_vj`` that reach it:

    h_v = b_k + W_k x_v + sum_j c_vj U_kj z_vj        y_v = layer_norm(elu(h_v))

The compiled operator reads and writes every row once in each direction, where PyTorch's operators
pass arrays of all nodes from one to the next and wait for memory.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from emorec.ops.kind_product import kind_product
from emorec.ops.library import Backend, runs_fused_on_cpu
from emorec.ops.registration import declare

__all__ = ["node_update", "node_update_ref"]

EPSILON = 1e-5  # of the layer norm
WHOLE_VECTORS = 16
"""The compiled operator takes sizes that are multiples of it; kWholeVectors in csrc."""


def node_update(
    others: Tensor,
    others_weight: Tensor,
    gain: Tensor,
    shift: Tensor,
    sizes: list[int],
    *,
    own: Tensor | None = None,
    own_weight: Tensor | None = None,
    bias: Tensor | None = None,
    index: Tensor | None = None,
    scale: Tensor | None = None,
    elu: bool = True,
    backend: Backend = "auto",
) -> Tensor:
    """New vectors of nodes, see the module's formula.

    The compiled operator is for a CPU, in float32 and float64, and for a size that is a multiple of
    16; "auto" runs the reference for all else. Results do not depend on the number of threads.

    Equivalent to, for nodes of one kind:

        z = scale[..., None] * others[index]  # [V, J, D]; zeros where index is -1
        h = bias + own @ own_weight[0].T + torch.einsum("vjd,jed->ve", z, others_weight[0])
        F.layer_norm(F.elu(h), gain.shape, gain, shift)

    Args:
        others: What reaches nodes, ``[Z, D]``.
        others_weight: ``U``, ``[K, J, D, D]``.
        gain: Factors of the layer norm, ``[D]``.
        shift: What it adds, ``[D]``.
        sizes: Nodes of each kind, ``K`` of them.
        own: The nodes' own vectors ``x``, sorted by kind, ``[V, D]``; None for none.
        own_weight: ``W``, ``[K, D, D]``; None where ``own`` is.
        bias: ``b``, ``[K, D]``; None for 0.
        index: The row of ``others`` that is ``z_vj``, int32 ``[V, J]``; -1 for a vector of zeros.
            No row may come twice. None: row ``v J + j``.
        scale: ``c``, ``[V, J]``; None for 1. It gets no gradient.
        elu: Whether there is an ELU.
        backend: "reference" (plain PyTorch), "fused" (the compiled operator) or "auto".

    Returns:
        ``[V, D]``; differentiable once.

    Raises:
        ValueError: If there is no such backend.
        RuntimeError: If ``backend="fused"`` is requested but not available.
    """
    if not runs_fused_on_cpu(backend, "update of nodes", others, _unsupported(others)):
        return node_update_ref(
            others,
            others_weight,
            gain,
            shift,
            sizes,
            own=own,
            own_weight=own_weight,
            bias=bias,
            index=index,
            scale=scale,
            elu=elu,
        )
    output, _, _ = torch.ops.emorec.node_update_fwd(
        others.contiguous(),
        others_weight.contiguous(),
        None if own is None else own.contiguous(),
        None if own_weight is None else own_weight.contiguous(),
        None if index is None else index.contiguous(),
        None if scale is None else scale.detach().to(others.dtype).T.contiguous(),
        gain.contiguous(),
        torch.tensor([0, *sizes]).cumsum(0),
        None if bias is None else bias.contiguous(),
        shift.contiguous(),
        EPSILON,
        elu,
    )
    return output


def _unsupported(others: Tensor) -> str | None:
    """Why the compiled operator does not take rows of this size; None if it does."""
    size = others.shape[1]
    if size % WHOLE_VECTORS == 0:
        return None
    return f"the compiled update takes sizes that are multiples of {WHOLE_VECTORS}, got {size}"


def node_update_ref(
    others: Tensor,
    others_weight: Tensor,
    gain: Tensor,
    shift: Tensor,
    sizes: list[int],
    *,
    own: Tensor | None = None,
    own_weight: Tensor | None = None,
    bias: Tensor | None = None,
    index: Tensor | None = None,
    scale: Tensor | None = None,
    elu: bool = True,
) -> Tensor:
    """Plain PyTorch twin of `node_update`."""
    num_terms, size = others_weight.shape[1:3]
    if index is not None:  # -1 is a last row of zeros
        others = F.pad(others, (0, 0, 0, 1)).index_select(0, index.flatten() % (len(others) + 1))
    if scale is not None:
        others = others * scale.detach().to(others.dtype).reshape(-1, 1)
    # sum_j c_vj U_kj z_vj is one product: [V, J D] by [J D, D].
    side_by_side = others_weight.transpose(2, 3).flatten(1, 2)  # [K, J D, D]
    h = kind_product(others.view(-1, num_terms * size), side_by_side.transpose(1, 2), sizes)
    if own is not None and own_weight is not None:
        h = h + kind_product(own, own_weight, sizes)
    if bias is not None:
        h = h + torch.cat([b.expand(n, -1) for b, n in zip(bias, sizes, strict=True)])
    return F.layer_norm(F.elu(h) if elu else h, (size,), gain, shift, EPSILON)


def _fake_forward(
    others: Tensor,
    others_weight: Tensor,
    own: Tensor | None,
    own_weight: Tensor | None,
    index: Tensor | None,
    *rest: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    num_nodes = len(others) // others_weight.shape[1] if index is None else len(index)
    output = others.new_empty(num_nodes, others.shape[1])
    return output, torch.empty_like(output), others.new_empty(num_nodes, 2)


def _fake_backward(
    grad_output: Tensor,
    others: Tensor,
    others_weight: Tensor,
    own: Tensor | None,
    own_weight: Tensor | None,
    index: Tensor | None,
    scale: Tensor | None,
    gain: Tensor,
    *rest: Any,
) -> tuple[Tensor, ...]:
    num_kinds, _, size, _ = others_weight.shape
    grad_own, grad_own_weight = (
        others.new_empty(shape) if each is None else torch.empty_like(each)
        for each, shape in ((own, (0, size)), (own_weight, (0, size, size)))
    )
    of_others = torch.empty_like(others), torch.empty_like(others_weight)
    of_all = others.new_empty(num_kinds, size), torch.empty_like(gain), gain.new_empty(size)
    return *of_others, grad_own, grad_own_weight, *of_all


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *of_both_passes, _, _, _, ctx.elu = inputs  # without bias, shift and epsilon
    _, activated, statistics = output
    ctx.save_for_backward(*of_both_passes, activated, statistics)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    *of_weights, grad_bias, grad_gain, grad_shift = torch.ops.emorec.node_update_bwd(
        grad.contiguous(), *ctx.saved_tensors, ctx.elu
    )
    # In the order of the forward's arguments: index, scale and kind_offsets have none.
    grads = *of_weights, None, None, grad_gain, None, grad_bias, grad_shift, None, None
    wanted = zip(grads, ctx.needs_input_grad, strict=True)
    return tuple(each if needed else None for each, needed in wanted)


declare("node_update_fwd", _fake_forward, _setup_context, _backward)
declare("node_update_bwd", _fake_backward)
