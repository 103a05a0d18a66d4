"""The compiled operators' shapes and gradients, and the call of the attention.

The attention's are ``torch.ops.emorec.hawkes_attention_fwd`` and ``_bwd``; schemas and kernels are
in csrc. See `emorec.ops.hawkes_attention` for the formula and the public function.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from emorec.ops.arguments import Arguments

__all__ = ["hawkes_attention", "register", "unsupported"]

LARGEST_CUDA_SIZE = 256
"""Of queries and values per head; kMaxHeadSize in csrc."""

FORWARD, BACKWARD = "emorec::hawkes_attention_fwd", "emorec::hawkes_attention_bwd"


def register() -> None:
    """Tells PyTorch the operators' shapes and gradients; the library must be loaded."""
    torch.library.register_fake(FORWARD, _fake_forward)
    torch.library.register_fake(BACKWARD, _fake_backward)
    torch.library.register_fake("emorec::softmax_loss", _fake_softmax_loss)
    torch.library.register_fake("emorec::graph_attention_fwd", _fake_graph_forward)
    torch.library.register_fake("emorec::graph_attention_bwd", _fake_graph_backward)
    torch.library.register_fake("emorec::node_update_fwd", _fake_update_forward)
    torch.library.register_fake("emorec::node_update_bwd", _fake_update_backward)
    torch.library.register_autograd(FORWARD, _backward, setup_context=_save)


def unsupported(a: Arguments) -> str | None:
    """Why the compiled operator does not take these arguments; None if it does."""
    if a.value.device.type != "cuda":
        return None
    if _dtypes(a)[0] == torch.float64:
        return "float64 has no CUDA kernel"
    if max(a.query.shape[-1], a.value.shape[-1]) > LARGEST_CUDA_SIZE:
        return (
            f"the CUDA kernel takes sizes up to {LARGEST_CUDA_SIZE} per head, got queries of "
            f"{a.query.shape[-1]} and values of {a.value.shape[-1]}"
        )
    return None


def hawkes_attention(a: Arguments) -> Tensor:
    """`emorec.ops.hawkes_attention` by the compiled operator, arguments checked."""
    query, key, value, seed = a.query, a.key, a.value, a.seed
    num_heads, value_size = value.shape[1:]
    compute, output_dtype = _dtypes(a)
    query = query if query.dim() == 3 else query[:, None]
    key = key if key is None or key.dim() == 3 else key[:, None]
    if isinstance(a.window, Tensor):
        inverse_window = 1 / a.window.detach().double()
    else:
        inverse_window = value.new_full((1,), 1 / a.window, dtype=torch.float64)

    # Heads of equal weights are one head: of summed values, or of values side by side.
    one_rate = a.decay_rate.numel() == 1 and inverse_window.numel() == 1
    as_one = one_rate and query.shape[1] == 1 and a.dropout == 0 and num_heads > 1
    if as_one and a.sum_heads:
        value = value.sum(1, keepdim=True)
    elif as_one and value.device.type == "cpu":  # other kernels bound the size of values
        value = value.flatten(1)[:, None]

    if a.dropout > 0 and seed is None:
        seed = torch.randint(2**62, (1,), device=value.device)
    elif a.dropout > 0 and isinstance(seed, int):
        seed = torch.full((1,), seed, dtype=torch.int64, device=value.device)
    output, _ = torch.ops.emorec.hawkes_attention_fwd(
        _rows(query, compute),
        None if key is None else _rows(key, compute),
        _rows(value, compute),
        a.time.contiguous(),
        a.position.to(torch.int32).contiguous(),  # modulo 2^32, see position_difference in csrc
        a.cu_seqlens.to(torch.int64).contiguous(),
        a.decay_rate.double().expand(value.shape[1]).contiguous(),
        inverse_window.expand(value.shape[1]).contiguous(),
        seed if a.dropout > 0 else None,
        query.shape[-1] ** -0.5 if a.scale is None else a.scale,
        a.dropout,
        a.decay == "additive",
        a.causal,
        a.mask_self,
        a.sum_heads,
    )
    output = output.to(output_dtype)
    # A view's gradient is a view too; that of output[:, 0] would be a copy.
    return output.view(-1, value_size) if a.sum_heads else output.view(-1, num_heads, value_size)


def _dtypes(a: Arguments) -> tuple[torch.dtype, torch.dtype]:
    """Precision that the kernel gets, and of the output."""
    device = a.value.device.type
    if torch.is_autocast_enabled(device):
        output = compute = torch.get_autocast_dtype(device)
    else:
        output, compute = a.value.dtype, torch.promote_types(a.query.dtype, a.value.dtype)
    return torch.float32 if compute == torch.float16 else compute, output


def _rows(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    tensor = tensor.to(dtype)
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


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


def _fake_softmax_loss(
    state: Tensor, items: Tensor, target: Tensor, wanted: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    loss = state.new_empty((), dtype=torch.float64)
    return loss, torch.empty_like(state), torch.empty_like(items)


def _fake_graph_forward(
    x: Tensor, left: Tensor, right: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    num_targets, num_heads = right.shape
    output = x.new_empty(num_targets, num_heads, x.shape[2])
    return output, torch.empty_like(output), x.new_empty(num_targets, 3, num_heads)


def _fake_graph_backward(
    grad_output: Tensor, x: Tensor, left: Tensor, right: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(left), torch.empty_like(right)


def _fake_update_forward(
    others: Tensor,
    others_weight: Tensor,
    own: Tensor | None,
    own_weight: Tensor | None,
    index: Tensor | None,
    *rest: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    num_nodes = len(others) // others_weight.shape[1] if index is None else len(index)
    output = others.new_empty(num_nodes, others.shape[1])
    return output, torch.empty_like(output), others.new_empty(num_nodes, 2)


def _fake_update_backward(
    grad_output: Tensor,
    others: Tensor,
    others_weight: Tensor,
    own: Tensor | None,
    own_weight: Tensor | None,
    index: Tensor | None,
    scale: Tensor | None,
    gain: Tensor,
    *rest: Any,
) -> tuple[Tensor, ...]:
    num_kinds, _, size, _ = others_weight.shape
    grad_own, grad_own_weight = (
        others.new_empty(shape) if each is None else torch.empty_like(each)
        for each, shape in ((own, (0, size)), (own_weight, (0, size, size)))
    )
    of_others = torch.empty_like(others), torch.empty_like(others_weight)
    of_all = others.new_empty(num_kinds, size), torch.empty_like(gain), gain.new_empty(size)
    return *of_others, grad_own, grad_own_weight, *of_all


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1], *inputs[:9])
    ctx.options = inputs[9:]
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_output: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    grads: list[Tensor | None] = [None] * (9 + len(ctx.options))
    if grad_output is not None:
        if grad_output.stride(-1) != 1:
            grad_output = grad_output.contiguous()
        grad_query, grad_key, grad_value, grad_rate = torch.ops.emorec.hawkes_attention_bwd(
            grad_output, *ctx.saved_tensors, *ctx.options
        )
        grads[0], grads[2], grads[6] = grad_query, grad_value, grad_rate
        grads[1] = None if ctx.saved_tensors[2] is None else grad_key
    return tuple(grads)
