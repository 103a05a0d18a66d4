"""Products of nodes' vectors with the matrix of their kind.

For nodes v sorted by kind, ``k`` that of v:

    y_v = W_k x_v          dx_v = W_k^T dy_v          dW_k = sum_v dy_v x_v^T
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["kind_product"]


def kind_product(x: Tensor, weight: Tensor, sizes: list[int]) -> Tensor:
    """Products of vectors with the matrix of their kind, see the module's formula.

    Equivalent to:

        torch.cat([rows @ w.T for rows, w in zip(x.split(sizes), weight)])

    Args:
        x: Vectors of nodes sorted by kind, ``[V, D]``.
        weight: ``W``, ``[K, N, D]``.
        sizes: Nodes of each kind, ``K`` of them.

    Returns:
        ``[V, N]``; differentiable once.
    """
    return _KindProduct.apply(x, weight, sizes)


class _KindProduct(torch.autograd.Function):
    """Products of blocks, each written where it belongs: no block is cut out, joined or padded."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, sizes: list[int]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.sizes = sizes
        output = x.new_empty(len(x), weight.shape[1])
        for block, own, w in zip(output.split(sizes), x.split(sizes), weight.unbind(), strict=True):
            torch.mm(own, w.T, out=block)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        grad_x, grad_weight = torch.empty_like(x), torch.empty_like(weight)
        for block, own, w, grad_own, grad_w in zip(
            grad.split(ctx.sizes),
            x.split(ctx.sizes),
            weight.unbind(),
            grad_x.split(ctx.sizes),
            grad_weight.unbind(),
            strict=True,
        ):
            torch.mm(block, w, out=grad_own)
            torch.mm(block.T, own, out=grad_w)
        return grad_x, grad_weight, None
