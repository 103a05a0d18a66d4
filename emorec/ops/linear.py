"""Linear maps of a transformer with what is around them: a layer norm before, a residual after.

With factors of dropout ``f_tj`` and ``e_td`` and an activation ``a``:

    norm_linear:  h_t = f_t a(W layer_norm(x_t) + b)        add_linear:  y_t = x_t + e_t (V h_t + c)

Both halves of a layer are one after the other, with the attention or nothing between them. The
compiled operators go over the rows once, where PyTorch's pass arrays of all rows from one to the
next, and keep their inputs and outputs alone for the backward.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from emorec.ops.library import Backend, runs_fused_on_cpu
from emorec.ops.random_bytes import LEVELS, random_bytes
from emorec.ops.registration import declare

__all__ = ["Activation", "add_linear", "add_linear_ref", "norm_linear", "norm_linear_ref"]

Activation = Literal["none", "relu", "elu"]

EPSILON = 1e-5  # of the layer norm
WHOLE_VECTORS = 16
"""The compiled operators take sizes that are multiples of it; kWholeVectors in csrc."""

_ACTIVATIONS: tuple[Activation, ...] = ("none", "relu", "elu")  # as csrc numbers them


def norm_linear(
    x: Tensor,
    gain: Tensor,
    shift: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    activation: Activation = "none",
    first_activated: int = 0,
    threshold: int = 0,
    backend: Backend = "auto",
) -> Tensor:
    """A linear map after a layer norm, see the module's formula.

    The compiled operators are for a CPU, in float32 and float64, and for sizes that are multiples
    of 16; "auto" runs the reference for all else, under autocast and in `torch.export`. Results do
    not depend on the number of threads.

    Equivalent to, without dropout:

        h = F.linear(F.layer_norm(x, gain.shape, gain, shift), weight, bias)
        torch.cat([h[:, :first_activated], F.elu(h[:, first_activated:])], dim=1)

    Args:
        x: Rows, ``[T, D]``.
        gain: Factors of the layer norm, ``[D]``.
        shift: What it adds, ``[D]``.
        weight: ``W``, ``[N, D]``.
        bias: ``b``, ``[N]``.
        activation: "none", "relu" or "elu".
        first_activated: The outputs before this one are left as they are.
        threshold: Dropout after a ReLU of all outputs: one is 0 where its random byte is below,
            with probability ``threshold / 256``, and scaled up elsewhere. 0 for none.
        backend: "reference" (plain PyTorch), "fused" (the compiled operator) or "auto".

    Returns:
        ``[T, N]``; differentiable once.

    Raises:
        ValueError: If there is no such backend or activation, or dropout after another activation.
        RuntimeError: If ``backend="fused"`` is requested but not available.
    """
    if activation not in _ACTIVATIONS:
        raise ValueError(f"activation must be 'none', 'relu' or 'elu', got {activation!r}")
    if threshold and (activation != "relu" or first_activated):
        raise ValueError("dropout (threshold above 0) follows a ReLU of all outputs")
    drawn = random_bytes(torch.Size((len(x), len(weight))), x.device) if threshold else None
    arguments = x, gain, shift, weight, bias
    if not _runs_fused(backend, x, weight, first_activated):
        return norm_linear_ref(*arguments, drawn, threshold, activation, first_activated)
    number = _ACTIVATIONS.index(activation)
    return torch.ops.emorec.norm_linear_fwd(
        *(each.contiguous() for each in arguments),
        drawn,
        threshold,
        EPSILON,
        number,
        first_activated,
    )


def add_linear(
    x: Tensor,
    h: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    threshold: int = 0,
    backend: Backend = "auto",
) -> Tensor:
    """A linear map that is added to rows, see the module's formula; for the rest, `norm_linear`.

    Equivalent to, without dropout:

        x + F.linear(h, weight, bias)

    Args:
        x: Rows, ``[T, D]``.
        h: What is mapped, ``[T, H]``.
        weight: ``V``, ``[D, H]``.
        bias: ``c``, ``[D]``.
        threshold: Dropout of what is added, in 256ths; see `norm_linear`.
        backend: "reference" (plain PyTorch), "fused" (the compiled operator) or "auto".

    Returns:
        ``[T, D]``; differentiable once.

    Raises:
        ValueError: If there is no such backend.
        RuntimeError: If ``backend="fused"`` is requested but not available.
    """
    drawn = random_bytes(x.shape, x.device) if threshold else None
    if not _runs_fused(backend, h, weight):
        return add_linear_ref(x, h, weight, bias, drawn, threshold)
    arguments = (each.contiguous() for each in (x, h, weight, bias))
    return torch.ops.emorec.add_linear_fwd(*arguments, drawn, threshold)


def _runs_fused(backend: Backend, rows: Tensor, weight: Tensor, first_activated: int = 0) -> bool:
    is_mixed = torch.is_autocast_enabled(rows.device.type)
    if backend == "auto" and (is_mixed or torch.compiler.is_exporting()):
        return False
    unsupported = None
    sizes = [*weight.shape, first_activated]
    if is_mixed:
        unsupported = "the compiled linear maps do not run under autocast"
    elif wrong := [size for size in sizes if size % WHOLE_VECTORS]:
        unsupported = (
            f"the compiled linear maps take sizes that are multiples of {WHOLE_VECTORS}, "
            f"got {wrong[0]}"
        )
    return runs_fused_on_cpu(backend, "linear map", rows, unsupported)


def norm_linear_ref(
    x: Tensor,
    gain: Tensor,
    shift: Tensor,
    weight: Tensor,
    bias: Tensor,
    drawn: Tensor | None = None,
    threshold: int = 0,
    activation: Activation = "none",
    first_activated: int = 0,
) -> Tensor:
    """Plain PyTorch twin of `norm_linear`, with the bytes of ``f``."""
    h = F.linear(F.layer_norm(x, gain.shape, gain, shift, EPSILON), weight, bias)
    if activation != "none":
        function = F.relu if activation == "relu" else F.elu
        activated = function(h[:, first_activated:])
        h = torch.cat([h[:, :first_activated], activated], 1) if first_activated else activated
    return _dropped(h, drawn, threshold)


def add_linear_ref(
    x: Tensor,
    h: Tensor,
    weight: Tensor,
    bias: Tensor,
    drawn: Tensor | None = None,
    threshold: int = 0,
) -> Tensor:
    """Plain PyTorch twin of `add_linear`, with the bytes of ``e``."""
    return x + _dropped(F.linear(h, weight, bias), drawn, threshold)


def _dropped(values: Tensor, drawn: Tensor | None, threshold: int) -> Tensor:
    if drawn is None:
        return values
    return values * ((drawn >= threshold).to(values.dtype) * (LEVELS / (LEVELS - threshold)))


def _fake_norm_linear(x: Tensor, gain: Tensor, shift: Tensor, weight: Tensor, *rest: Any) -> Tensor:
    return x.new_empty(len(x), len(weight))


def _fake_norm_linear_bwd(
    grad_output: Tensor,
    output: Tensor,
    x: Tensor,
    gain: Tensor,
    shift: Tensor,
    weight: Tensor,
    bias: Tensor,
    *rest: Any,
) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(each) for each in (x, gain, shift, weight, bias))


def _setup_norm_linear(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*output, *inputs[:6])
    ctx.options = inputs[6:]


def _norm_linear_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    grads = torch.ops.emorec.norm_linear_bwd(grad.contiguous(), *ctx.saved_tensors, *ctx.options)
    return *grads, None, *(None for _ in ctx.options)  # the bytes have none


def _fake_add_linear(x: Tensor, *rest: Any) -> Tensor:
    return torch.empty_like(x)


def _fake_add_linear_bwd(
    grad_output: Tensor, h: Tensor, weight: Tensor, *rest: Any
) -> tuple[Tensor, ...]:
    return torch.empty_like(h), torch.empty_like(weight), weight.new_empty(len(weight))


def _setup_add_linear(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, h, weight, _, drawn, ctx.threshold = inputs
    ctx.save_for_backward(h, weight, drawn)


def _add_linear_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    grads = torch.ops.emorec.add_linear_bwd(grad.contiguous(), *ctx.saved_tensors, ctx.threshold)
    return grad, *grads, None, None


declare("norm_linear_fwd", _fake_norm_linear, _setup_norm_linear, _norm_linear_backward)
declare("norm_linear_bwd", _fake_norm_linear_bwd)
declare("add_linear_fwd", _fake_add_linear, _setup_add_linear, _add_linear_backward)
declare("add_linear_bwd", _fake_add_linear_bwd)
