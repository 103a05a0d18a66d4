"""Dropout that spends one random byte per element."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from emorec.ops.random_bytes import LEVELS, random_bytes

__all__ = ["Dropout"]


class Dropout(nn.Module):
    """Zeroes elements at random while training, and scales the others so that means stay.

        y = x * keep / P(keep),   keep = [byte >= 256 p]

    On a CPU, drawing a random number per element made `torch.nn.Dropout` the third largest part of
    a training step. A 64-bit draw holds eight bytes, and a byte is fine enough: the probability is
    rounded to a multiple of 1/256, and the scale takes the rounded one, so means stay exact.

    Args:
        p: Probability that an element is zeroed, at least 0 and below 1.

    Raises:
        ValueError: If ``p`` is out of range.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.set(p)

    def set(self, p: float) -> None:
        """Changes the probability.

        Raises:
            ValueError: If it is out of range.
        """
        if not 0 <= p < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {p}")
        self.p = p
        self._threshold = min(round(LEVELS * p), LEVELS - 1)

    @property
    def threshold(self) -> int:
        """The least byte that keeps an element now: 0 when evaluating."""
        return self._threshold if self.training else 0

    def forward(self, x: Tensor) -> Tensor:
        """``x`` of any shape; itself when evaluating."""
        return _Drop.apply(x, self.threshold) if self.threshold else x

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"p={self.p}"


class _Drop(torch.autograd.Function):
    """The mask is kept scaled, in the input's type: one multiplication each way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, threshold: int) -> Tensor:
        byte = random_bytes(x.shape, x.device)
        # In place, so that bytes of 0 and 1 are converted: of booleans it takes ten times as long.
        factor = byte.ge_(threshold).to(x.dtype).mul_(LEVELS / (LEVELS - threshold))
        ctx.save_for_backward(factor)
        return x * factor

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (factor,) = ctx.saved_tensors
        return grad * factor, None
