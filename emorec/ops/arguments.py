"""Checks of the arguments of Hawkes attention, the same for every implementation."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["check_arguments"]

MAX_POSITION_SPAN = 2**31
"""Of a sequence, exclusive: the kernels subtract positions in int32."""


def check_arguments(
    query: Tensor,
    key: Tensor | None,
    value: Tensor,
    time: Tensor,
    position: Tensor,
    cu_seqlens: Tensor,
    decay_rate: Tensor,
    *,
    window: float | Tensor,
    decay: str,
    dropout: float,
) -> None:
    """Raises ValueError if shapes or options do not fit, or on a CPU values.

    Args:
        query: See `emorec.ops.hawkes_attention`, as for all others.
        key: Keys or None.
        value: Values.
        time: Times.
        position: Positions.
        cu_seqlens: Where sequences begin and end.
        decay_rate: Decay rates.
        window: Windows.
        decay: Form of decay.
        dropout: Share of weights that are dropped.
    """
    if value.dim() != 3:
        raise ValueError(f"value must be [T, H, Dv], got {list(value.shape)}")
    num_tokens, num_heads = value.shape[:2]
    if query.dim() not in (2, 3) or len(query) != num_tokens:
        raise ValueError(
            f"query must be [T, D] or [T, H, D], T = {num_tokens}, got {list(query.shape)}"
        )
    if query.dim() == 3 and query.shape[1] != num_heads:
        raise ValueError(f"query has {query.shape[1]} heads, value has {num_heads}")
    if key is not None and key.shape != query.shape:
        raise ValueError(f"key {list(key.shape)} must have the shape of query {list(query.shape)}")
    if time.shape != (num_tokens,) or time.dtype not in (torch.int64, torch.float64):
        raise ValueError(
            f"time must be int64 or float64 [{num_tokens}], got {time.dtype} {list(time.shape)}"
        )
    if position.shape != (num_tokens,) or position.dtype not in (torch.int32, torch.int64):
        raise ValueError(
            f"position must be int [{num_tokens}], got {position.dtype} {list(position.shape)}"
        )
    if cu_seqlens.dim() != 1 or len(cu_seqlens) < 1:
        raise ValueError(f"cu_seqlens must be [B + 1], got {list(cu_seqlens.shape)}")
    per_head = ((num_heads,), (1,))
    if decay_rate.shape not in per_head:
        raise ValueError(
            f"decay_rate must be [{num_heads}], got {list(decay_rate.shape)}; [1] is for all heads"
        )
    if isinstance(window, Tensor):
        if window.shape not in per_head:
            raise ValueError(f"window must be a number or [{num_heads}], got {list(window.shape)}")
    elif not window > 0:
        raise ValueError(f"window must be positive, got {window}")
    if decay not in ("multiplicative", "additive"):
        raise ValueError(f"decay must be 'multiplicative' or 'additive', got {decay!r}")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be in [0, 1), got {dropout}")
    # Values on a GPU would cost a synchronisation; a compiler has none yet.
    if value.device.type == "cpu" and not torch.compiler.is_compiling():
        _check_values(position, cu_seqlens, decay_rate, window, num_tokens)


def _check_values(
    position: Tensor,
    cu_seqlens: Tensor,
    decay_rate: Tensor,
    window: float | Tensor,
    num_tokens: int,
) -> None:
    ends = cu_seqlens.tolist()
    if ends[0] != 0 or ends[-1] != num_tokens:
        raise ValueError(
            f"cu_seqlens must go from 0 to T = {num_tokens}, got {ends[0]} to {ends[-1]}"
        )
    if ends != sorted(ends):
        raise ValueError(f"cu_seqlens must not fall, got {cu_seqlens}")
    if (decay_rate < 0).any():
        raise ValueError(
            f"decay_rate must be at least 0, got {decay_rate.min().item():g}; "
            "below 0 weights would grow with elapsed time"
        )
    if isinstance(window, Tensor) and not (window > 0).all():
        raise ValueError(f"window must be positive, got {window.min().item():g}")
    if num_tokens:
        _check_positions(position, cu_seqlens)


def _check_positions(position: Tensor, cu_seqlens: Tensor) -> None:
    lowest, highest = (int(each) for each in position.aminmax())
    if highest - lowest < MAX_POSITION_SPAN:
        return
    row = torch.repeat_interleave(cu_seqlens.diff())
    ends = position.new_zeros(2, len(cu_seqlens) - 1, dtype=torch.int64)
    for end, which in zip(ends, ("amin", "amax"), strict=True):
        end.scatter_reduce_(0, row, position.long(), which, include_self=False)
    for low, high in ends.T.tolist():
        if high - low >= MAX_POSITION_SPAN:
            raise ValueError(
                f"positions of a sequence must be less than 2^31 apart, got {low} and {high}"
            )
