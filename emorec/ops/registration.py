"""Registration of operators with PyTorch: shapes for tracing, gradients for autograd.

Schemas and kernels are in csrc. An operator's file declares the rest at its end, and
`emorec.ops.library.load` registers it once the schemas are loaded. Every differentiable operator
has one differentiable output, its first; the others are what its backward reads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["declare", "differentiable", "register"]

SetupContext = Callable[[Any, tuple[Any, ...], tuple[Tensor, ...]], None]
Backward = Callable[[Any, Tensor], tuple[Tensor | None, ...]]


@dataclass(frozen=True)
class Declaration:
    """What `declare` was given."""

    fake: Callable[..., Any]
    setup_context: SetupContext | None
    backward: Backward | None


_declared: dict[str, Declaration] = {}


def declare(
    name: str,
    fake: Callable[..., Any],
    setup_context: SetupContext | None = None,
    backward: Backward | None = None,
) -> None:
    """Declares a compiled operator, which `register` will pass to PyTorch.

    Args:
        name: Name of the schema, without namespace.
        fake: Returns outputs of the right shapes and dtypes, without values.
        setup_context: ``(ctx, inputs, output)``: saves what the backward needs; None for an
            operator without gradient.
        backward: ``(ctx, grad)``: returns the gradient of every input from that of the first
            output.
    """
    _declared[name] = Declaration(fake, setup_context, backward)


def register() -> None:
    """Registers the declared operators with PyTorch; the library must be loaded.

    Raises:
        RuntimeError: If the library lacks one of them.
    """
    for name, operator in _declared.items():
        schema = f"emorec::{name}"
        torch.library.register_fake(schema, operator.fake)
        if operator.setup_context is not None and operator.backward is not None:
            setup_context, backward = _of_first_output(operator.setup_context, operator.backward)
            torch.library.register_autograd(schema, backward, setup_context=setup_context)


def differentiable(
    forward: Callable[..., tuple[Tensor, ...]], setup_context: SetupContext, backward: Backward
) -> Callable[..., tuple[Tensor, ...]]:
    """Gives a reference a gradient of its own, where plain autograd would be slow or large.

    Args:
        forward: Returns the output and what the backward needs.
        setup_context: As in `declare`.
        backward: As in `declare`.

    Returns:
        ``forward``, differentiable once.
    """
    setup, gradient = _of_first_output(setup_context, backward)
    members = {
        "forward": staticmethod(forward),
        "setup_context": staticmethod(setup),
        "backward": staticmethod(gradient),
    }
    function: Any = type(forward.__name__, (torch.autograd.Function,), members)
    return function.apply


def _of_first_output(
    setup_context: SetupContext, backward: Backward
) -> tuple[SetupContext, Callable[..., Any]]:
    """Both functions for autograd, which asks for the gradients of all outputs."""

    def setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor | tuple[Tensor, ...]) -> None:
        outputs = (output,) if isinstance(output, Tensor) else output
        ctx.mark_non_differentiable(*outputs[1:])
        ctx.set_materialize_grads(False)  # no arrays of zeros for the other outputs
        setup_context(ctx, inputs, outputs)

    @once_differentiable
    def gradient(ctx: Any, grad: Tensor | None, *rest: None) -> tuple[Tensor | None, ...]:
        if grad is None:  # autograd reached the operator, but nothing depends on its output
            return (None,) * len(ctx.needs_input_grad)
        return backward(ctx, grad)

    return setup, gradient
