r"""Hawkes attention: softmax attention whose scores decay with elapsed time and with position.

For head ``h``, query token ``i`` and key token ``j`` of one sequence, with times ``t`` and
positions ``p``:

    s_ij = scale * <q_i, k_j>
    multiplicative:  s_ij <- s_ij * exp(-rate_h * max(0, t_i - t_j)) * exp(-|p_i - p_j| / window)
    additive:        s_ij <- s_ij - rate_h * max(0, t_i - t_j) - |p_i - p_j| / window
    a_ij = softmax_j(s_ij)          o_i^h = sum_j a_ij v_j^h

Multiplicative decay is the paper's (3.2.3, steps 3 to 6): an old key's score goes to 0, so its
weight goes to that of a neutral key, not to 0. Additive decay takes the weight itself to 0.
Excluded keys (masks) are set to minus infinity *after* the decay, since -inf * 0 is NaN.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from emorec.ops.arguments import check_arguments
from emorec.ops.library import Backend, runs_fused
from emorec.ops.registration import declare

__all__ = [
    "Backend",
    "Decay",
    "hawkes_attention",
    "hawkes_attention_dense",
    "hawkes_attention_ref",
]

Decay = Literal["multiplicative", "additive"]

LARGEST_CUDA_SIZE = 256
"""Of queries and values per head; kMaxHeadSize in csrc."""


def hawkes_attention(
    query: Tensor,
    key: Tensor | None,
    value: Tensor,
    time: Tensor,
    position: Tensor,
    cu_seqlens: Tensor,
    decay_rate: Tensor,
    *,
    window: float | Tensor = float("inf"),
    decay: Decay = "multiplicative",
    causal: bool = True,
    scale: float | None = None,
    mask_self: bool = False,
    dropout: float = 0.0,
    seed: int | Tensor | None = None,
    sum_heads: bool = False,
    backend: Backend = "auto",
) -> Tensor:
    """Hawkes attention over packed sequences, see the module's formula.

    Query, key, value and decay rate get gradients. The compiled operator needs memory for the
    inputs and outputs only, the reference for every pair of tokens. Its results do not depend on
    the number of threads.

    Equivalent to, for one sequence, multiplicative decay and ``causal``:

        elapsed = (time[:, None] - time).clamp(min=0)  # [T, T]
        distance = (position[:, None] - position).abs()
        factor = torch.exp(-decay_rate[:, None, None] * elapsed - distance / window)  # [H, T, T]
        scores = scale * (query @ query.T) * factor
        later = torch.ones_like(elapsed, dtype=torch.bool).triu(1)
        weights = torch.softmax(scores.masked_fill(later, -torch.inf), dim=-1)
        output = (weights @ value.transpose(0, 1)).transpose(0, 1)  # [T, H, Dv]

    Args:
        query: ``[T, D]`` (one set of scores for all heads) or ``[T, H, D]``, float.
        key: Same shape as ``query``; None means the queries themselves (Q = K, as in the paper).
        value: ``[T, H, Dv]``.
        time: ``[T]``, int64 or float64, in the unit of ``1 / decay_rate``. Differences are taken
            before rounding to the working precision.
        position: ``[T]``, int32 or int64, less than 2^31 apart within a sequence (only checked on a
            CPU). Differences are taken before rounding.
        cu_seqlens: Sequence ``b`` holds the tokens ``cu_seqlens[b] : cu_seqlens[b + 1]``,
            int ``[B + 1]``, from 0 to ``T``.
        decay_rate: ``[H]``, or ``[1]`` for all heads, at least 0; 0 turns decay by time off. Heads
            that share rate, window and scores share their weights, which saves most of the work.
        window: Positional reach, a number or ``[H]``; infinity turns positional decay off.
        decay: "multiplicative" (the paper) or "additive".
        causal: Whether a token attends only to those up to its own place in the sequence.
        scale: Factor on the scores, ``1 / sqrt(D)`` by default.
        mask_self: Whether a token does not attend to itself; one without any key gets zeros.
        dropout: Share of attention weights set to 0 (the others scaled up).
        seed: Fixes the dropout mask, the same for every backend and device; int or int64 ``[1]``.
            By default each call draws a new one.
        sum_heads: Whether to return the sum over heads.
        backend: "reference" (plain PyTorch), "fused" (the compiled operator) or "auto".

    Returns:
        ``[T, H, Dv]``, or ``[T, Dv]`` if ``sum_heads``, in ``value``'s precision (autocast's
        where that is on); differentiable once.

    Raises:
        ValueError: If shapes or options do not fit.
        RuntimeError: If ``backend="fused"`` is requested but not available.
    """
    inputs = query, key, value, time, position, cu_seqlens, decay_rate
    if not torch.compiler.is_exporting():  # where values are not known
        check_arguments(*inputs, window=window, decay=decay, dropout=dropout)
    fused = runs_fused(backend, value.device.type, _unsupported(query, value))
    run = _hawkes_attention_fused if fused else hawkes_attention_ref
    return run(
        *inputs,
        window=window,
        decay=decay,
        causal=causal,
        scale=scale,
        mask_self=mask_self,
        dropout=dropout,
        seed=seed,
        sum_heads=sum_heads,
    )


def _unsupported(query: Tensor, value: Tensor) -> str | None:
    """Why the compiled operator does not take these arguments; None if it does."""
    if value.device.type != "cuda":
        return None
    if _dtypes(query, value)[0] == torch.float64:
        return "float64 has no CUDA kernel"
    if max(query.shape[-1], value.shape[-1]) > LARGEST_CUDA_SIZE:
        return (
            f"the CUDA kernel takes sizes up to {LARGEST_CUDA_SIZE} per head, got queries of "
            f"{query.shape[-1]} and values of {value.shape[-1]}"
        )
    return None


def _hawkes_attention_fused(
    query: Tensor,
    key: Tensor | None,
    value: Tensor,
    time: Tensor,
    position: Tensor,
    cu_seqlens: Tensor,
    decay_rate: Tensor,
    *,
    window: float | Tensor,
    decay: Decay,
    causal: bool,
    scale: float | None,
    mask_self: bool,
    dropout: float,
    seed: int | Tensor | None,
    sum_heads: bool,
) -> Tensor:
    """`hawkes_attention` by the compiled operator."""
    num_heads, value_size = value.shape[1:]
    compute, output_dtype = _dtypes(query, value)
    query = query if query.dim() == 3 else query[:, None]
    key = key if key is None or key.dim() == 3 else key[:, None]
    if isinstance(window, Tensor):
        inverse_window = 1 / window.detach().double()
    else:
        inverse_window = value.new_full((1,), 1 / window, dtype=torch.float64)

    if dropout == 0:
        seed = None
    elif seed is None:
        seed = torch.randint(2**62, (1,), device=value.device)
    elif isinstance(seed, int):
        seed = torch.full((1,), seed, dtype=torch.int64, device=value.device)

    # Heads of equal weights are one head: of summed values, or of values side by side.
    one_rate = decay_rate.numel() == 1 and inverse_window.numel() == 1
    as_one = one_rate and query.shape[1] == 1 and seed is None and num_heads > 1
    if as_one and sum_heads:
        value = value.sum(1, keepdim=True)
    elif as_one and value.device.type == "cpu":  # other kernels bound the size of values
        value = value.flatten(1)[:, None]

    output, _ = torch.ops.emorec.hawkes_attention_fwd(
        _rows(query, compute),
        None if key is None else _rows(key, compute),
        _rows(value, compute),
        time.contiguous(),
        position.to(torch.int32).contiguous(),  # modulo 2^32, see position_difference in csrc
        cu_seqlens.to(torch.int64).contiguous(),
        decay_rate.double().expand(value.shape[1]).contiguous(),
        inverse_window.expand(value.shape[1]).contiguous(),
        seed,
        query.shape[-1] ** -0.5 if scale is None else scale,
        dropout,
        decay == "additive",
        causal,
        mask_self,
        sum_heads,
    )
    output = output.to(output_dtype)
    # A view's gradient is a view too; that of output[:, 0] would be a copy.
    return output.view(-1, value_size) if sum_heads else output.view(-1, num_heads, value_size)


def _dtypes(query: Tensor, value: Tensor) -> tuple[torch.dtype, torch.dtype]:
    """Precision of the kernel's arguments, and of the output."""
    device = value.device.type
    if torch.is_autocast_enabled(device):
        output = compute = torch.get_autocast_dtype(device)
    else:
        output, compute = value.dtype, torch.promote_types(query.dtype, value.dtype)
    return torch.float32 if compute == torch.float16 else compute, output


def _rows(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in a precision, its last dimension contiguous."""
    tensor = tensor.to(dtype)
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def hawkes_attention_dense(
    query: Tensor,
    key: Tensor | None,
    value: Tensor,
    time: Tensor,
    decay_rate: Tensor,
    *,
    position: Tensor | None = None,
    mask: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """`hawkes_attention` over padded sequences.

    Args:
        query: ``[B, L, D]`` or ``[B, L, H, D]``.
        key: Same shape as ``query``, or None.
        value: ``[B, L, H, Dv]``.
        time: ``[B, L]``.
        decay_rate: ``[H]`` or ``[1]``.
        position: ``[B, L]``; the place in the row by default.
        mask: True at tokens, False at padding, ``[B, L]``; no padding by default. Padding may be
            anywhere.
        options: The options of `hawkes_attention`, by name.

    Returns:
        ``[B, L, H, Dv]``, or ``[B, L, Dv]`` if ``sum_heads``; 0 at padding.

    Raises:
        ValueError: If shapes or options do not fit.
        RuntimeError: If ``backend="fused"`` is requested but not available.
    """
    if value.dim() != 4:
        raise ValueError(f"value must be [B, L, H, Dv], got {list(value.shape)}")
    num_rows, length = value.shape[:2]
    for name, tensor in dict(query=query, key=key, time=time, position=position, mask=mask).items():
        if tensor is not None and tensor.shape[:2] != (num_rows, length):
            raise ValueError(
                f"{name} must be [{num_rows}, {length}, ...], got {list(tensor.shape)}"
            )
    device = value.device
    if position is None:
        position = torch.arange(length, device=device).expand(num_rows, length)
    slot, cu_seqlens = None, torch.arange(num_rows + 1, device=device) * length
    if mask is not None:
        slot = mask.flatten().nonzero()[:, 0]  # [T]
        cu_seqlens = torch.cat([slot.new_zeros(1), mask.sum(1).cumsum(0)])

    def packed(dense: Tensor) -> Tensor:
        flat = dense.flatten(0, 1)
        return flat if slot is None else flat[slot]

    output = hawkes_attention(
        packed(query),
        None if key is None else packed(key),
        packed(value),
        packed(time),
        packed(position),
        cu_seqlens,
        decay_rate,
        **options,
    )
    if slot is not None:
        empty = output.new_zeros(num_rows * length, *output.shape[1:])
        output = empty.index_copy(0, slot, output)
    return output.unflatten(0, (num_rows, length))


def hawkes_attention_ref(
    query: Tensor,
    key: Tensor | None,
    value: Tensor,
    time: Tensor,
    position: Tensor,
    cu_seqlens: Tensor,
    decay_rate: Tensor,
    *,
    window: float | Tensor = float("inf"),
    decay: Decay = "multiplicative",
    causal: bool = True,
    scale: float | None = None,
    mask_self: bool = False,
    dropout: float = 0.0,
    seed: int | Tensor | None = None,
    sum_heads: bool = False,
) -> Tensor:
    """Plain PyTorch twin of `hawkes_attention`, on padded arrays ``[B, H, L, L]``."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    lengths = cu_seqlens.diff().long()
    num_rows = lengths.shape[0]
    # The length of a single sequence is that of the input, for torch.export as well.
    length = value.shape[0] if num_rows == 1 else int(lengths.max()) if num_rows else 0
    rows = torch.arange(num_rows, device=lengths.device)
    row = torch.repeat_interleave(rows, lengths, output_size=value.shape[0])
    place = torch.arange(value.shape[0], device=lengths.device) - cu_seqlens.long()[row]
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
    reach = window.detach().view(1, -1, 1, 1) if isinstance(window, Tensor) else window
    exponent = decay_rate.view(1, -1, 1, 1).to(scores.dtype) * elapsed + distance / reach
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
    if dropout > 0 and seed is not None:
        token = cu_seqlens[:-1, None] + torch.arange(length, device=lengths.device)
        weights = weights * _dropout_mask(seed, token, v.shape[1], dropout).to(weights.dtype)
    else:
        weights = torch.dropout(weights, dropout, train=True)
    output = (weights.to(v.dtype) @ v).transpose(1, 2)  # [B, L, H, Dv]
    output = output.reshape(num_rows * length, *value.shape[1:]).index_select(0, slot)
    return output.sum(1) if sum_heads else output


def _dropout_mask(seed: int | Tensor, token: Tensor, num_heads: int, dropout: float) -> Tensor:
    """Mask of 0 and ``1 / (1 - dropout)`` as in csrc/hawkes_attention.h.

    Args:
        seed: Seed.
        token: Place of the tokens in the packed arrays, int64 ``[B, L]``.
        num_heads: Heads ``H``.
        dropout: Share of zeros.

    Returns:
        ``[B, H, L, L]``, float64.
    """

    def signed(bits: int) -> int:
        return bits - (1 << 64) if bits >> 63 else bits

    def shifted(z: Tensor, bits: int) -> Tensor:  # of unsigned numbers
        return (z >> bits) & ((1 << (64 - bits)) - 1)

    low = 0xFFFFFFFF
    head = torch.arange(num_heads, device=token.device)
    counter = token[:, None, :] * 0x10001 + head[:, None] + 1  # [B, H, L]
    z = seed + counter * signed(0x9E3779B97F4A7C15)
    z = (z ^ shifted(z, 30)) * signed(0xBF58476D1CE4E5B9)
    z = (z ^ shifted(z, 27)) * signed(0x94D049BB133111EB)
    row = (z ^ shifted(z, 31))[..., None]  # [B, H, L, 1]
    place = torch.arange(token.shape[1], device=token.device)
    x = (place * 0x9E3779B9 + (row & low)) & low
    x = ((x ^ (x >> 16)) * 0x21F0AAAD) & low
    x = (((x ^ (x >> 15)) + shifted(row, 32)) & low) * 0x735A2D97 & low
    kept = (x ^ (x >> 15)) >= int(dropout * 2**32)
    return kept.double() / (1 - dropout)


def _head_first(dense: Tensor) -> Tensor:
    """``[B, L, D]`` or ``[B, L, H, D]`` -> ``[B, 1 or H, L, D]``."""
    return dense[:, None] if dense.dim() == 3 else dense.transpose(1, 2)


def _fake_forward(
    query: Tensor,
    key: Tensor | None,
    value: Tensor,
    time: Tensor,
    position: Tensor,
    cu_seqlens: Tensor,
    decay_rate: Tensor,
    inverse_window: Tensor,
    seed: Tensor | None,
    scale: float,
    dropout: float,
    additive: bool,
    causal: bool,
    mask_self: bool,
    sum_heads: bool,
) -> tuple[Tensor, Tensor]:
    num_tokens, num_heads, size = value.shape
    accumulate = torch.float64 if value.dtype == torch.float64 else torch.float32
    output = value.new_empty(num_tokens, 1 if sum_heads else num_heads, size)
    return output, value.new_empty(num_tokens, num_heads, dtype=accumulate)


def _fake_backward(
    grad_output: Tensor,
    log_sum: Tensor,
    query: Tensor,
    key: Tensor | None,
    value: Tensor,
    time: Tensor,
    position: Tensor,
    cu_seqlens: Tensor,
    decay_rate: Tensor,
    *rest: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grad_query = query.new_empty(query.shape)
    grad_key = query.new_empty(0) if key is None else query.new_empty(query.shape)
    return grad_query, grad_key, value.new_empty(value.shape), torch.empty_like(decay_rate)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    tensors, ctx.options = inputs[:9], inputs[9:]
    ctx.save_for_backward(output[1], *tensors)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    if grad.stride(-1) != 1:
        grad = grad.contiguous()
    grad_query, grad_key, grad_value, grad_decay_rate = torch.ops.emorec.hawkes_attention_bwd(
        grad, *ctx.saved_tensors, *ctx.options
    )
    key = ctx.saved_tensors[2]
    grads = [grad_query, None if key is None else grad_key, grad_value, None, None, None]
    grads += [grad_decay_rate, None, None]  # inverse_window and seed have none
    return *grads, *(None for _ in ctx.options)


declare("hawkes_attention_fwd", _fake_forward, _setup_context, _backward)
declare("hawkes_attention_bwd", _fake_backward)
