"""Update of a graph's nodes: projections, ELU and layer norm in one pass over the rows.

For a node v of kind k, with a vector ``x_v`` of its own and ``J`` vectors ``z_vj`` that reach it:

    h_v = b_k + W_k x_v + sum_j c_vj U_kj z_vj        y_v = layer_norm(elu(h_v))

`node_update` runs the compiled operator where it is there, else its plain PyTorch twin. The
compiled one reads and writes every row once in each direction, where PyTorch's operators pass
arrays of all nodes from one to the next and wait for memory.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from emorec.ops.library import Backend, runs_fused_on_cpu

__all__ = ["node_update"]

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
        RuntimeError: If ``backend="fused"`` is asked for and not there.
    """
    scale = None if scale is None else scale.to(others.dtype)
    if runs_fused_on_cpu(backend, "update of nodes", others, _unsupported(others)):
        return _NodeUpdate.apply(
            others, others_weight, own, own_weight, bias, gain, shift, index, scale, sizes, elu
        )
    num_terms, size = others_weight.shape[1:3]
    if index is not None:  # -1 is a last row of zeros
        others = F.pad(others, (0, 0, 0, 1)).index_select(0, index.flatten() % (len(others) + 1))
    if scale is not None:
        others = others * scale.reshape(-1, 1)
    # sum_j c_vj U_kj z_vj is one product: [V, J D] by [J D, D].
    terms = others.view(-1, num_terms * size)
    h = _per_kind(terms, others_weight.transpose(2, 3).flatten(1, 2), sizes)
    if own is not None and own_weight is not None:
        h = h + _per_kind(own, own_weight.transpose(1, 2), sizes)
    if bias is not None:
        h = h + torch.cat([b.expand(n, -1) for b, n in zip(bias, sizes, strict=True)])
    return F.layer_norm(F.elu(h) if elu else h, (size,), gain, shift, EPSILON)


def _unsupported(others: Tensor) -> str | None:
    size = others.shape[1]
    if size % WHOLE_VECTORS == 0:
        return None
    return f"the compiled update takes sizes that are multiples of {WHOLE_VECTORS}, got {size}"


class _NodeUpdate(torch.autograd.Function):
    """The compiled operator."""

    @staticmethod
    def forward(
        ctx: Any,
        others: Tensor,
        others_weight: Tensor,
        own: Tensor | None,
        own_weight: Tensor | None,
        bias: Tensor | None,
        gain: Tensor,
        shift: Tensor,
        index: Tensor | None,
        scale: Tensor | None,
        sizes: list[int],
        elu: bool,
    ) -> Tensor:
        def contiguous(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.contiguous()

        inputs = (
            contiguous(others),
            contiguous(others_weight),
            contiguous(own),
            contiguous(own_weight),
            index,
            None if scale is None else scale.T.contiguous(),
            gain,
            torch.tensor([0, *sizes]).cumsum(0),
        )
        output, activated, statistics = torch.ops.emorec.node_update_fwd(
            *inputs, contiguous(bias), shift, EPSILON, elu
        )
        ctx.save_for_backward(*inputs, activated, statistics)
        ctx.elu = elu
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grads = torch.ops.emorec.node_update_bwd(grad.contiguous(), *ctx.saved_tensors, ctx.elu)
        wanted = zip(grads, ctx.needs_input_grad, strict=False)
        return *(each if needed else None for each, needed in wanted), None, None, None, None


def _per_kind(x: Tensor, weight: Tensor, sizes: list[int]) -> Tensor:
    """Rows times their kind's matrix."""
    return torch.cat([rows @ w for rows, w in zip(x.split(sizes), weight, strict=True)])
