r"""Hawkes attention: softmax attention whose scores decay with elapsed time and with position.

For head ``h``, query token ``i`` and key token ``j`` of one sequence, with times ``t`` and
positions ``p``:

    s_ij = scale * <q_i, k_j>
    multiplicative:  s_ij <- s_ij * exp(-rate_h * max(0, t_i - t_j)) * exp(-|p_i - p_j| / window)
    additive:        s_ij <- s_ij - rate_h * max(0, t_i - t_j) - |p_i - p_j| / window
    a_ij = softmax_j(s_ij)          o_i^h = sum_j a_ij v_j^h

Multiplicative decay is the paper's (3.2.3, steps 3 to 6): an old key's score goes to 0, so its
weight goes to that of a neutral key, not to 0. Additive decay sends the weight itself to 0: it
forgets. Excluded keys (masks) are set to minus infinity *after* the decay, since -inf * 0 is NaN.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

__all__ = ["Backend", "Decay", "hawkes_attention", "hawkes_attention_ref"]

Decay = Literal["multiplicative", "additive"]
Backend = Literal["auto", "reference", "fused"]


def hawkes_attention(
    query: Tensor,
    key: Tensor | None,
    value: Tensor,
    time: Tensor,
    position: Tensor,
    cu_seqlens: Tensor,
    decay_rate: Tensor,
    *,
    window: float = float("inf"),
    decay: Decay = "multiplicative",
    causal: bool = True,
    scale: float | None = None,
    mask_self: bool = False,
    dropout: float = 0.0,
    backend: Backend = "auto",
) -> Tensor:
    """Hawkes attention over packed sequences, see the module's formula.

    Args:
        query: ``[T, D]`` (one set of scores for all heads) or ``[T, H, D]``, float.
        key: Same shape as ``query``; None means the queries themselves (Q = K, as in the paper).
        value: ``[T, H, Dv]``.
        time: ``[T]``, int64 or float64, in the unit of ``1 / decay_rate``. Differences are taken
            before rounding to the working precision.
        position: ``[T]``, int32 or int64.
        cu_seqlens: Sequence ``b`` holds the tokens ``cu_seqlens[b] : cu_seqlens[b + 1]``,
            int ``[B + 1]``, from 0 to ``T``.
        decay_rate: ``[H]``, at least 0; 0 never forgets.
        window: Positional reach; infinity turns positional decay off.
        decay: "multiplicative" (the paper) or "additive".
        causal: Whether token ``i`` sees only the tokens at its place or before in its sequence.
        scale: Factor on the scores, ``1 / sqrt(D)`` by default.
        mask_self: Whether a token may not see itself; a token that sees nothing gets zeros.
        dropout: Share of attention weights set to 0 (the others scaled up).
        backend: "reference" (plain PyTorch), "fused" (the compiled kernel) or "auto".

    Returns:
        ``[T, H, Dv]``, in ``value``'s precision.

    Raises:
        ValueError: If shapes or options do not fit.
        RuntimeError: If ``backend="fused"`` is asked for and not there.
    """
    _check(query, key, value, time, position, cu_seqlens, decay_rate, window, decay, dropout)
    if backend == "fused":
        raise RuntimeError("backend='fused': this installation has no compiled Hawkes attention")
    if backend not in ("auto", "reference"):
        raise ValueError(f"backend must be 'auto', 'reference' or 'fused', got {backend!r}")
    return hawkes_attention_ref(
        query,
        key,
        value,
        time,
        position,
        cu_seqlens,
        decay_rate,
        window=window,
        decay=decay,
        causal=causal,
        scale=scale,
        mask_self=mask_self,
        dropout=dropout,
    )


def hawkes_attention_ref(
    query: Tensor,
    key: Tensor | None,
    value: Tensor,
    time: Tensor,
    position: Tensor,
    cu_seqlens: Tensor,
    decay_rate: Tensor,
    *,
    window: float = float("inf"),
    decay: Decay = "multiplicative",
    causal: bool = True,
    scale: float | None = None,
    mask_self: bool = False,
    dropout: float = 0.0,
) -> Tensor:
    """Plain PyTorch twin of `hawkes_attention`, on padded arrays ``[B, H, L, L]``."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    lengths = cu_seqlens.diff().long()
    num_rows, length = len(lengths), int(lengths.max()) if len(lengths) else 0
    row = torch.repeat_interleave(torch.arange(num_rows, device=lengths.device), lengths)
    place = torch.arange(len(value), device=lengths.device) - cu_seqlens.long()[row]
    slot = row * length + place  # [T], where each packed token lives in a padded array

    def padded(packed: Tensor) -> Tensor:
        dense = packed.new_zeros(num_rows * length, *packed.shape[1:]).index_copy(0, slot, packed)
        return dense.view(num_rows, length, *packed.shape[1:])

    q = _head_first(padded(query))  # [B, H or 1, L, D]
    k = q if key is None else _head_first(padded(key))
    v = _head_first(padded(value))  # [B, H, L, Dv]
    scores = (q * scale) @ k.transpose(-1, -2)  # [B, H or 1, L, L]

    t, p = padded(time), padded(position)
    elapsed = (t[:, :, None] - t[:, None, :]).clamp_(min=0).to(scores.dtype)[:, None]
    distance = (p[:, :, None] - p[:, None, :]).abs_().to(scores.dtype)[:, None]
    exponent = decay_rate.view(1, -1, 1, 1).to(scores.dtype) * elapsed + distance / window
    if decay == "multiplicative":
        scores = scores * torch.exp(-exponent)
    else:
        scores = scores - exponent

    real = padded(torch.ones_like(slot, dtype=torch.bool))
    visible = real[:, None, None, :].expand(-1, 1, length, -1)
    if causal:
        visible = visible & visible.new_ones(length, length).tril_()
    if mask_self:
        visible = visible & ~torch.eye(length, dtype=torch.bool, device=value.device)
    weights = torch.softmax(scores.masked_fill(~visible, float("-inf")), dim=-1)
    if mask_self:  # a row without a visible key: softmax of nothing is 0 here, not NaN
        weights = weights.masked_fill(~visible.any(-1, keepdim=True), 0.0)
    weights = torch.dropout(weights, dropout, train=dropout > 0)
    output = (weights.to(v.dtype) @ v).transpose(1, 2)  # [B, L, H, Dv]
    return output.reshape(num_rows * length, *value.shape[1:]).index_select(0, slot)


def _head_first(dense: Tensor) -> Tensor:
    """``[B, L, D]`` or ``[B, L, H, D]`` -> ``[B, 1 or H, L, D]``."""
    return dense[:, None] if dense.dim() == 3 else dense.transpose(1, 2)


def _check(
    query: Tensor,
    key: Tensor | None,
    value: Tensor,
    time: Tensor,
    position: Tensor,
    cu_seqlens: Tensor,
    decay_rate: Tensor,
    window: float,
    decay: str,
    dropout: float,
) -> None:
    num_tokens, num_heads = value.shape[0], value.shape[1] if value.dim() == 3 else -1
    if value.dim() != 3:
        raise ValueError(f"value must be [T, H, Dv], got {list(value.shape)}")
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
    if decay_rate.shape != (num_heads,):
        raise ValueError(f"decay_rate must be [{num_heads}], got {list(decay_rate.shape)}")
    if not window > 0:
        raise ValueError(f"window must be positive, got {window}")
    if decay not in ("multiplicative", "additive"):
        raise ValueError(f"decay must be 'multiplicative' or 'additive', got {decay!r}")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be in [0, 1), got {dropout}")
