from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from emorec.ops import registration
from emorec.ops.hawkes_attention import hawkes_attention
from tests.ops.operators import needs_library


def forward(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.square(), 2 * x


def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(output[1])


def backward(ctx: Any, grad: Tensor) -> tuple[Tensor]:
    return (grad * ctx.saved_tensors[0],)


square = registration.differentiable(forward, setup_context, backward)


def test_gradient_of_the_first_output():
    x = torch.tensor([3.0], requires_grad=True)
    output, saved = square(x)
    output.backward()
    assert x.grad.tolist() == [6.0]
    assert not saved.requires_grad


def test_no_gradient_arrives():
    class NoGradient(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> None:
            return None

    x = torch.tensor([3.0], requires_grad=True)
    NoGradient.apply(square(x)[0]).sum().backward()
    assert x.grad is None


def test_differentiable_once():
    x = torch.tensor([3.0], requires_grad=True)
    (grad,) = torch.autograd.grad(square(x)[0].square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        grad.sum().backward()


@needs_library
def test_operators_are_differentiable_once():
    query, value = torch.ones(2, 3, requires_grad=True), torch.ones(2, 1, 3)
    place = torch.arange(2)
    output = hawkes_attention(
        query, None, value, place, place, torch.tensor([0, 2]), torch.ones(1), backend="fused"
    )
    (grad,) = torch.autograd.grad(output.square().sum(), query, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        (grad + query).sum().backward()
