"""The arguments of Hawkes attention, checked once for every implementation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Arguments"]

MOST_APART = 2**31
"""Of two positions of a sequence: the kernels' differences are int32."""


@dataclass(frozen=True)
class Arguments:
    """What `emorec.ops.hawkes_attention` was given; see there for every field."""

    query: Tensor  # [T, D] or [T, H, D]
    key: Tensor | None
    value: Tensor  # [T, H, Dv]
    time: Tensor  # [T]
    position: Tensor  # [T]
    cu_seqlens: Tensor  # [B + 1]
    decay_rate: Tensor  # [H] or [1]
    window: float | Tensor
    decay: str
    causal: bool
    scale: float | None
    mask_self: bool
    dropout: float
    seed: int | Tensor | None
    sum_heads: bool

    def check(self) -> None:
        """Raises ValueError if shapes, options or, on a CPU, values do not fit."""
        value, query, time, position = self.value, self.query, self.time, self.position
        if value.dim() != 3:
            raise ValueError(f"value must be [T, H, Dv], got {list(value.shape)}")
        num_tokens, num_heads = value.shape[:2]
        if query.dim() not in (2, 3) or len(query) != num_tokens:
            raise ValueError(
                f"query must be [T, D] or [T, H, D], T = {num_tokens}, got {list(query.shape)}"
            )
        if query.dim() == 3 and query.shape[1] != num_heads:
            raise ValueError(f"query has {query.shape[1]} heads, value has {num_heads}")
        if self.key is not None and self.key.shape != query.shape:
            raise ValueError(
                f"key {list(self.key.shape)} must have the shape of query {list(query.shape)}"
            )
        if time.shape != (num_tokens,) or time.dtype not in (torch.int64, torch.float64):
            raise ValueError(
                f"time must be int64 or float64 [{num_tokens}], got {time.dtype} {list(time.shape)}"
            )
        if position.shape != (num_tokens,) or position.dtype not in (torch.int32, torch.int64):
            raise ValueError(
                f"position must be int [{num_tokens}], got {position.dtype} {list(position.shape)}"
            )
        if self.cu_seqlens.dim() != 1 or len(self.cu_seqlens) < 1:
            raise ValueError(f"cu_seqlens must be [B + 1], got {list(self.cu_seqlens.shape)}")
        per_head = ((num_heads,), (1,))
        if self.decay_rate.shape not in per_head:
            raise ValueError(
                f"decay_rate must be [{num_heads}], got {list(self.decay_rate.shape)}; "
                "[1] is for all heads"
            )
        if isinstance(self.window, Tensor):
            if self.window.shape not in per_head:
                raise ValueError(
                    f"window must be a number or [{num_heads}], got {list(self.window.shape)}"
                )
        elif not self.window > 0:
            raise ValueError(f"window must be positive, got {self.window}")
        if self.decay not in ("multiplicative", "additive"):
            raise ValueError(f"decay must be 'multiplicative' or 'additive', got {self.decay!r}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")
        # A GPU would have to be waited for, and a compiler has no values yet.
        if value.device.type == "cpu" and not torch.compiler.is_compiling():
            self._check_values(num_tokens)

    def _check_values(self, num_tokens: int) -> None:
        ends = self.cu_seqlens.tolist()
        if ends[0] != 0 or ends[-1] != num_tokens:
            raise ValueError(
                f"cu_seqlens must go from 0 to T = {num_tokens}, got {ends[0]} to {ends[-1]}"
            )
        if ends != sorted(ends):
            raise ValueError(f"cu_seqlens must not fall, got {self.cu_seqlens}")
        if (self.decay_rate < 0).any():
            raise ValueError(
                f"decay_rate must be at least 0, got {self.decay_rate.min().item():g}; "
                "below 0 what is long ago would count more and more"
            )
        if isinstance(self.window, Tensor) and not (self.window > 0).all():
            raise ValueError(f"window must be positive, got {self.window.min().item():g}")
        if num_tokens:
            self._check_positions()

    def _check_positions(self) -> None:
        lowest, highest = (int(each) for each in self.position.aminmax())
        if highest - lowest < MOST_APART:
            return
        row = torch.repeat_interleave(self.cu_seqlens.diff())
        ends = self.position.new_zeros(2, len(self.cu_seqlens) - 1, dtype=torch.int64)
        for end, which in zip(ends, ("amin", "amax"), strict=True):
            end.scatter_reduce_(0, row, self.position.long(), which, include_self=False)
        for low, high in ends.T.tolist():
            if high - low >= MOST_APART:
                raise ValueError(
                    f"positions of a sequence must be less than 2^31 apart, got {low} and {high}"
                )
