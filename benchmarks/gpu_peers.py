"""Attention with decay and its peers on a GPU: one case, one interface.

Each maker of `PEERS` takes the inputs and returns a function that computes the output; gpu_bench.py
times them. `expected` is what the output should be.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from emorec.ops.hawkes_attention import Decay, hawkes_attention, hawkes_attention_ref

SIZE, WINDOW = 64, 101.0  # of queries, keys and values of a head; reach of the positional decay
SCALE = SIZE**-0.5
COMPARED = 2  # sequences


@dataclass(frozen=True)
class Case:
    """One size: sequences, tokens of each, heads."""

    batch: int
    length: int
    heads: int = 4

    @property
    def name(self) -> str:
        """As printed."""
        return f"{self.batch} x {self.length}, {self.heads} heads"

    @property
    def flops(self) -> dict[str, float]:
        """Of the products alone, for pairs that a causal mask leaves: 2 forward, 5 backward."""
        product = 2 * SIZE * self.heads * self.batch * self.length * (self.length + 1) / 2
        return {"forward": 2 * product, "both": 7 * product}


@dataclass
class Inputs:
    """Inputs of a case; times in days."""

    query: Tensor  # [B, L, H, D], as the next two
    key: Tensor
    value: Tensor
    gap: Tensor  # since the event before, [B, L] float64
    rate: Tensor  # [H]

    @classmethod
    def make(cls, case: Case, device: str, dtype: torch.dtype) -> Inputs:
        """Random inputs with gradients."""
        torch.manual_seed(0)
        shape = case.batch, case.length, case.heads, SIZE
        vectors = (torch.randn(shape).to(device, dtype).requires_grad_() for _ in range(3))
        gap = torch.empty(case.batch, case.length, dtype=torch.float64).exponential_(2.0)
        half_life = torch.logspace(math.log10(0.04), math.log10(365), case.heads)
        return cls(*vectors, gap.to(device), (math.log(2) / half_life).to(device).requires_grad_())

    @property
    def time(self) -> Tensor:
        """Days, the sums of the gaps so far, ``[B, L]``."""
        return self.gap.cumsum(1)

    def leaves(self) -> list[Tensor]:
        """What gets a gradient."""
        return [self.query, self.key, self.value, self.rate]


Run = Callable[[], Tensor]
"""Computes the output, ``[B, L, H, D]``."""


def fused(x: Inputs, decay: Decay) -> Run:
    """EmoRec's operator."""
    batch, length = x.time.shape
    days = x.time.flatten()
    position = torch.arange(length, dtype=torch.int32, device=days.device).repeat(batch)
    ends = torch.arange(batch + 1, device=days.device) * length

    def run() -> Tensor:
        vectors = (each.flatten(0, 1) for each in (x.query, x.key, x.value))
        options: dict[str, Any] = {"window": WINDOW, "decay": decay, "backend": "fused"}
        found = hawkes_attention(*vectors, days, position, ends, x.rate, **options)
        return found.unflatten(0, (batch, length))

    return run


def plain(
    query: Tensor, key: Tensor, value: Tensor, days: Tensor, rate: Tensor, decay: Decay
) -> Tensor:
    """The formula as one writes it."""
    q, k, v = (each.transpose(1, 2) for each in (query, key, value))  # [B, H, L, D]
    length = q.shape[2]
    elapsed = (days[:, None, :, None] - days[:, None, None, :]).clamp(min=0).to(q.dtype)
    place = torch.arange(length, device=q.device, dtype=q.dtype)
    distance = (place[:, None] - place).abs() / WINDOW
    exponent = rate[:, None, None] * elapsed + distance
    scores = SCALE * q @ k.transpose(-1, -2)
    scores = scores * torch.exp(-exponent) if decay == "multiplicative" else scores - exponent
    later = torch.ones(length, length, dtype=torch.bool, device=q.device).triu(1)
    weights = torch.softmax(scores.masked_fill(later, -torch.inf), -1)
    return (weights.to(v.dtype) @ v).transpose(1, 2)


def eager(x: Inputs, decay: Decay) -> Run:
    """Plain PyTorch."""
    days = x.time
    return lambda: plain(x.query, x.key, x.value, days, x.rate, decay)


def compiled(x: Inputs, decay: Decay) -> Run:
    """The same by torch.compile."""
    days, function = x.time, torch.compile(plain, dynamic=False)
    return lambda: function(x.query, x.key, x.value, days, x.rate, decay)


def flex(x: Inputs, decay: Decay) -> Run:
    """FlexAttention with the decay as score_mod; the rate gets no gradient."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    days, rate = x.time.float(), x.rate.detach()
    length = days.shape[1]

    def decayed(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        exponent = rate[h] * (days[b, i] - days[b, j]).clamp(min=0) + (i - j).abs() / WINDOW
        return score * torch.exp(-exponent) if decay == "multiplicative" else score - exponent

    def earlier(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return i >= j

    mask = create_block_mask(earlier, None, None, length, length, device=str(days.device))
    function = torch.compile(flex_attention, dynamic=False)

    def run() -> Tensor:
        heads_first = (each.transpose(1, 2) for each in (x.query, x.key, x.value))
        return function(*heads_first, score_mod=decayed, block_mask=mask).transpose(1, 2)

    return run


def sdpa(x: Inputs, decay: Decay) -> Run:
    """PyTorch's fastest attention, without any decay."""

    def run() -> Tensor:
        heads_first = (each.transpose(1, 2) for each in (x.query, x.key, x.value))
        return F.scaled_dot_product_attention(*heads_first, is_causal=True).transpose(1, 2)

    return run


def forgetting(x: Inputs, decay: Decay) -> Run:
    """Flash Linear Attention's forgetting attention, whose gate can be the additive decay.

    Z. Lin et al.: Forgetting Transformer: Softmax Attention with a Forget Gate, ICLR 2025,
    arXiv:2503.02130.
    """
    from fla.ops.forgetting_attn import parallel_forgetting_attn

    gap = x.gap.float()[..., None]
    return lambda: parallel_forgetting_attn(
        x.query, x.key, x.value, -x.rate * gap - 1 / WINDOW, scale=SCALE
    )


PEERS: list[tuple[str, Decay | None, Callable[[Inputs, Any], Run]]] = [
    ("fused", "multiplicative", fused),
    ("eager", "multiplicative", eager),
    ("torch.compile", "multiplicative", compiled),
    ("FlexAttention", "multiplicative", flex),
    ("fused", "additive", fused),
    ("FlexAttention", "additive", flex),
    ("forgetting attention", "additive", forgetting),
    ("SDPA", None, sdpa),
]


def expected(x: Inputs, decay: Decay) -> Tensor:
    """The reference's output of the first sequences, in float32."""
    length = x.time.shape[1]
    vectors = (each[:COMPARED].detach().flatten(0, 1).float() for each in (x.query, x.key, x.value))
    days = x.time[:COMPARED]
    position = torch.arange(length, device=days.device).repeat(len(days))
    ends = torch.arange(len(days) + 1, device=days.device) * length
    found = hawkes_attention_ref(
        *vectors, days.flatten(), position, ends, x.rate.detach(), window=WINDOW, decay=decay
    )
    return found.unflatten(0, (len(days), length))
