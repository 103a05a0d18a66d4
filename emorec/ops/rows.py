"""Rows of a table, with a gradient that is the same in every run."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

__all__ = ["take_rows"]


def take_rows(table: Tensor, index: Tensor) -> Tensor:
    """Rows of a table, by their numbers.

    The gradient of a row is the sum over its places. PyTorch has two operators for this. On a CPU,
    the gradient of `torch.index_select` takes a third of the time of that of `torch.embedding`,
    bit for bit the same; on a GPU, only that of `torch.embedding` is the same in every run.

    Args:
        table: ``[I, D]``.
        index: int64, of any shape ``[...]``.

    Returns:
        ``[..., D]``.
    """
    if table.device.type == "cpu":
        return table.index_select(0, index.flatten()).view(*index.shape, table.shape[1])
    return F.embedding(index, table)
