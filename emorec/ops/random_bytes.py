"""Random bytes, which dropout spends one of per element."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["LEVELS", "random_bytes"]

LEVELS = 256  # values of a byte


def random_bytes(shape: torch.Size, device: torch.device) -> Tensor:
    """Bytes by PyTorch's generator, uint8 of a shape; a draw of 64 bits holds eight of them."""
    count = shape.numel()
    draws = torch.empty(-(-count // 8), dtype=torch.int64, device=device)
    # Without a lower end the draws would not be negative, and every eighth byte below 128.
    draws.random_(-(2**63), None)
    return draws.view(torch.uint8)[:count].view(shape)
