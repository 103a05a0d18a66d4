"""Arrays to another device, without the CPU waiting for it."""

from __future__ import annotations

from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor

__all__ = ["moved"]


class _Movable(Protocol):
    def to(self, device: torch.device) -> Self: ...


Value = TypeVar("Value", Tensor, _Movable)


def moved(value: Value, device: torch.device | str) -> Value:
    """An array, or what holds arrays, on another device; itself if it is there already.

    Arrays are copied to a GPU from page-locked memory, so that the copy waits in the GPU's queue
    while the CPU goes on. PyTorch keeps that memory until the copy is made.
    """
    device = torch.device(device)
    if isinstance(value, Tensor) and value.device.type == "cpu" and device.type == "cuda":
        return value.pin_memory().to(device, non_blocking=True)  # pragma: no cover - needs a GPU
    return value.to(device)
