"""What the fused Hawkes attention is measured against, on dense inputs of equal content.

Every peer returns the sum over heads, ``[B, L, D]``, with Q = K as in the paper. SDPA leaves the
decay out: it is the fastest attention that PyTorch has, for scale.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from emorec.ops.hawkes_attention import hawkes_attention

DAY = 86_400.0
SIZE = 64  # of queries, keys and values

# Every twentieth of the numbers of ratings of the 6,040 users of MovieLens-1M, ascending.
ML_1M_LENGTHS = [20, 23, 27, 32, 38, 44, 51, 60, 70, 81, 96, 109, 126, 148, 173, 208, 253, 309, 400]
ML_1M_LENGTHS += [556, 2314]


@dataclass(frozen=True)
class Case:
    """One size to measure.

    Attributes:
        name: As printed.
        batch: Sequences.
        length: Tokens of each; the longest if `ragged`.
        heads: Heads.
        causal: Whether tokens see the past only.
        shared_rate: Whether all heads have the same decay rate.
        window: Reach of the positional decay.
        ragged: Whether lengths are drawn from MovieLens-1M's, cut at `length`.
    """

    name: str
    batch: int
    length: int
    heads: int
    causal: bool = False
    shared_rate: bool = False
    window: float = 20.0
    ragged: bool = False

    def lengths(self) -> Tensor:
        """Tokens of each sequence, int64 ``[B]``."""
        if not self.ragged:
            return torch.full((self.batch,), self.length)
        place = torch.rand(self.batch, generator=torch.Generator().manual_seed(0)) * 20
        low = torch.tensor(ML_1M_LENGTHS)[place.long()]
        high = torch.tensor(ML_1M_LENGTHS)[place.long() + 1]
        drawn = low + (high - low) * (place - place.floor())
        return drawn.long().clamp(max=self.length - 1) + 1  # [CLS]


@dataclass
class Data:
    """Inputs of a case: packed for the fused operator, padded at the end for the others."""

    case: Case
    lengths: Tensor  # [B]
    query: Tensor  # [B, L, D]
    value: Tensor  # [B, H, L, D]
    time: Tensor  # [B, L] float64
    rate: Tensor  # [H] or [1]
    packed_query: Tensor  # [T, D]
    packed_value: Tensor  # [T, H, D]

    @classmethod
    def make(cls, case: Case) -> Data:
        """Random inputs with gradients, the same for every peer."""
        torch.manual_seed(0)
        lengths = case.lengths()
        real = torch.arange(case.length) < lengths[:, None]  # [B, L]
        shape = (case.batch, case.length)
        query = F.layer_norm(torch.randn(*shape, SIZE), (SIZE,))
        value = F.elu(torch.randn(*shape, case.heads, SIZE))
        gaps = (torch.rand(shape, dtype=torch.float64) * 2 * DAY).round()
        heads = 1 if case.shared_rate else case.heads
        return cls(
            case=case,
            lengths=lengths,
            query=query.requires_grad_(),
            value=value.transpose(1, 2).contiguous().requires_grad_(),
            time=1.6e9 + gaps.cumsum(1),
            rate=(1e-6 * 3.0 ** torch.arange(heads)).requires_grad_(),
            packed_query=query.detach()[real].requires_grad_(),
            packed_value=value.detach()[real].requires_grad_(),
        )

    def forget_gradients(self) -> None:
        """Makes the next backward pass write gradients rather than add to them."""
        for leaf in (self.query, self.value, self.rate, self.packed_query, self.packed_value):
            leaf.grad = None

    @property
    def padding(self) -> Tensor | None:
        """True at keys that are padding, ``[B, 1, 1, L]``; None without padding."""
        if not self.case.ragged:
            return None
        return (torch.arange(self.case.length) >= self.lengths[:, None])[:, None, None]

    @property
    def later(self) -> Tensor | None:
        """True at keys after the query, ``[L, L]``; None if not causal."""
        length = self.case.length
        return torch.ones(length, length, dtype=torch.bool).triu(1) if self.case.causal else None


Run = Callable[[], Tensor]


def fused(data: Data) -> Run:
    """EmoRec's operator."""
    real = torch.arange(data.case.length) < data.lengths[:, None]
    time = data.time[real]
    position = torch.arange(data.case.length, dtype=torch.int32).expand_as(real)[real]
    cu_seqlens = torch.cat([torch.zeros(1, dtype=torch.int64), data.lengths.cumsum(0)])
    return lambda: hawkes_attention(
        data.packed_query,
        None,
        data.packed_value,
        time,
        position,
        cu_seqlens,
        data.rate,
        window=data.case.window,
        causal=data.case.causal,
        sum_heads=True,
        backend="fused",
    )


def eager_attention(
    query: Tensor,
    value: Tensor,
    time: Tensor,
    rate: Tensor,
    window: float,
    hidden: list[Tensor],
    per_head: bool,
) -> Tensor:
    """The formula as one writes it; `per_head` computes the scores once for every head."""
    length, heads = query.shape[1], value.shape[1]
    q = query[:, None]
    if per_head:
        q = q.expand(-1, heads, -1, -1)
    scores = (q * SIZE**-0.5) @ q.transpose(-1, -2)  # [B, H or 1, L, L]
    elapsed = (time[:, :, None] - time[:, None, :]).clamp(min=0).to(q.dtype)[:, None]
    place = torch.arange(length, dtype=q.dtype)
    distance = (place[:, None] - place).abs() / window
    scores = scores * torch.exp(-rate[:, None, None] * elapsed - distance)
    for mask in hidden:
        scores = scores.masked_fill(mask, float("-inf"))
    return (torch.softmax(scores, -1) @ value).sum(1)


def _eager(data: Data, function: Callable[..., Tensor], per_head: bool) -> Run:
    hidden = [mask for mask in (data.padding, data.later) if mask is not None]
    return lambda: function(
        data.query, data.value, data.time, data.rate, data.case.window, hidden, per_head
    )


def eager(data: Data) -> Run:
    """Plain PyTorch, scores computed for each head."""
    return _eager(data, eager_attention, per_head=True)


def eager_shared(data: Data) -> Run:
    """Plain PyTorch, scores computed once."""
    return _eager(data, eager_attention, per_head=False)


def compiled(data: Data) -> Run:
    """torch.compile of the better plain version."""
    return _eager(data, torch.compile(eager_attention, dynamic=False), per_head=False)


def sdpa(data: Data) -> Run:
    """scaled_dot_product_attention, without any decay."""
    heads, hidden = data.case.heads, data.padding

    def run() -> Tensor:
        q = data.query[:, None].expand(-1, heads, -1, -1)
        mask, later = None if hidden is None else ~hidden, data.later
        if mask is not None and later is not None:
            mask = mask & ~later
        causal = data.case.causal and mask is None
        return F.scaled_dot_product_attention(
            q, q, data.value, attn_mask=mask, is_causal=causal
        ).sum(1)

    return run


def flex(data: Data) -> Run:
    """FlexAttention with the decay as score_mod; on the CPU it has no backward."""
    from torch.nn.attention.flex_attention import flex_attention

    time = (data.time - data.time[:, :1]).float()
    rate, window, length = data.rate.detach(), data.case.window, data.lengths
    shared, causal = data.case.shared_rate, data.case.causal

    def decayed(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        elapsed = (time[b, i] - time[b, j]).clamp(min=0)
        own = rate[0] if shared else rate[h]
        score = score * torch.exp(-own * elapsed - (i - j).abs() / window)
        visible = j < length[b]
        if causal:
            visible = visible & (j <= i)
        return torch.where(visible, score, -float("inf"))

    run = torch.compile(flex_attention, dynamic=False)
    query = data.query.detach()[:, None].expand(-1, data.case.heads, -1, -1).contiguous()
    value = data.value.detach()
    return lambda: run(query, query, value, score_mod=decayed).sum(1)


PEERS: dict[str, Callable[[Data], Run]] = {
    "fused": fused,
    "eager": eager,
    "eager, shared scores": eager_shared,
    "torch.compile": compiled,
    "SDPA, no decay": sdpa,
    "FlexAttention": flex,
}
FORWARD_ONLY = ("FlexAttention",)
SLOW_TO_COMPILE = ("FlexAttention",)  # measured where asked for
