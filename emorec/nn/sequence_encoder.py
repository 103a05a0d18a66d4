"""Sequence encoder: a transformer whose attention decays with time and position (paper, 3.2)."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emorec.data.feedback import Feedback
from emorec.data.sequences import CLS, SequenceBatch
from emorec.nn.dropout import Dropout
from emorec.ops.hawkes_attention import Backend, Decay, hawkes_attention
from emorec.ops.linear import add_linear, norm_linear
from emorec.ops.rows import take_rows

__all__ = ["HawkesLayer", "SequenceEncoder"]

HOURS_PER_DAY = 24.0
_SECONDS_PER_DAY = 86_400.0
_NUM_INTERVALS = 32  # of times: the last one begins at 68 years


class SequenceEncoder(nn.Module):
    """Turns each token of a user's history into the user's state after that token.

    Input of token ``k``, with ``gap_k`` the hours since the token before it:

        x_k = sqrt(D) item_k + position_k + w log(1 + gap_k) + b  (+ feedback_k) (+ until_k)

    then `HawkesLayer` after layer and a final LayerNorm. [CLS] has a learned vector in place of
    the item's. Attention is causal: a state depends on the events up to its token, so that it can
    be trained to predict the next one. The paper projects raw seconds since the epoch; they are
    some nine orders of magnitude larger than the embeddings and would drown them, so the gap
    enters on a logarithmic scale.

    Args:
        size: Width of all vectors, ``D``.
        max_length: Tokens of the longest sequence, [CLS] among them.
        num_layers: Layers.
        num_heads: Heads.
        window: Reach of the positional decay, in positions.
        decay: "multiplicative" (paper) or "additive".
        half_lives: Shortest and longest half-life at the start, in days; the heads' half-lives
            are spread between them on a logarithmic scale and then learned.
        projections: Whether queries, keys and outputs have learned projections (as in usual
            transformers); without, ``Q = K = LayerNorm(x)`` and heads are summed (paper).
        feedback_input: Whether a token's kind of feedback is part of its input.
        request_time: Whether the time from each event to the next one or, from the last event, to
            the request is part of its input: ``until_k`` is a learned vector of
            ``floor(log2(1 + s_k))``, with ``s_k`` that time in seconds.
        dropout: Dropout on inputs, on the attention's output and in the feed-forward network.
        attention: Implementation of the attention, see `emorec.ops.hawkes_attention`.
    """

    def __init__(
        self,
        size: int,
        max_length: int,
        *,
        num_layers: int = 1,
        num_heads: int = 4,
        window: float = 101.0,
        decay: Decay = "multiplicative",
        half_lives: tuple[float, float] = (0.04, 365.0),
        projections: bool = False,
        feedback_input: bool = False,
        request_time: bool = False,
        dropout: float = 0.2,
        attention: Backend = "auto",
    ) -> None:
        super().__init__()
        self.max_length = max_length
        self.cls = nn.Parameter(torch.randn(size) * 0.1)
        self.position = nn.Embedding(max_length, size)
        self.gap = nn.Linear(1, size)
        self.feedback = nn.Embedding(len(Feedback), size) if feedback_input else None
        self.until = nn.Embedding(_NUM_INTERVALS, size) if request_time else None
        for module in (self.position, self.gap, self.feedback, self.until):
            if module is not None:
                nn.init.normal_(module.weight, std=0.1)
        self.dropout = Dropout(dropout)
        self.layers = nn.ModuleList(
            HawkesLayer(
                size,
                num_heads,
                window=window,
                decay=decay,
                half_lives=half_lives,
                projections=projections,
                dropout=dropout,
                attention=attention,
            )
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(size)

    def set_dropout(self, p: float) -> None:
        """Changes the dropout everywhere in the encoder.

        Raises:
            ValueError: If it is not at least 0 and below 1.
        """
        for module in self.modules():
            if isinstance(module, Dropout):
                module.set(p)

    def forward(self, batch: SequenceBatch, items: Tensor, tokens: Tensor | None = None) -> Tensor:
        """States after each token, or after some.

        Args:
            batch: Packed sequences of ``T`` tokens.
            items: Item embeddings, ``[I, D]``.
            tokens: Those whose states are needed, int64 ``[N]``; None: all. The last layer, of
                which there must be one, computes no others.

        Returns:
            ``[N, D]``.
        """
        is_cls = (batch.position == 0)[:, None]
        item = take_rows(items, batch.item.clamp(min=0)) * items.shape[1] ** 0.5
        x = torch.where(is_cls, self.cls, item)
        # [CLS] is at day 0, so the step back from one user to the next is clamped away
        gap = batch.days.diff(prepend=batch.days[:1]).clamp(min=0) * HOURS_PER_DAY
        x += take_rows(self.position.weight, batch.position)
        x += self.gap(torch.log1p(gap)[:, None].to(x.dtype))
        if self.feedback is not None:
            x += _rows_or_zeros(self.feedback.weight, batch.feedback)
        if self.until is not None:
            x += _rows_or_zeros(
                self.until.weight, _interval(batch.days_to_next).where(~is_cls[:, 0], CLS)
            )
        x = self.dropout(x)
        last = len(self.layers) - 1
        for number, layer in enumerate(self.layers):
            x = layer(x, batch, tokens if number == last else None)
        return self.norm(x)


def _rows_or_zeros(table: Tensor, index: Tensor) -> Tensor:
    """Rows of a small table, ``[N, D]``; zeros where the index is `CLS`.

    A row of zeros takes a third of the time of a mask over all values.
    """
    return take_rows(F.pad(table, (0, 0, 1, 0)), index - CLS)


def _interval(days: Tensor) -> Tensor:
    """Intervals of times that double in length: 0 seconds, 1 to 2, 3 to 6, ..., int64 ``[T]``."""
    seconds = (days * _SECONDS_PER_DAY).round()  # days are binary fractions
    exponent = torch.frexp(1 + seconds).exponent.long()  # floor(log2) + 1, exact
    return (exponent - 1).clamp(max=_NUM_INTERVALS - 1)


class FeedForward(nn.Sequential):
    """``x + W_2 relu(W_1 LayerNorm(x))``, with biases and dropout, by `emorec.ops.linear`.

    Args:
        size: Width of the rows; four times that between the products.
        dropout: Dropout after either product.
    """

    def __init__(self, size: int, dropout: float) -> None:
        super().__init__(
            nn.LayerNorm(size),
            nn.Linear(size, 4 * size),
            nn.ReLU(),
            Dropout(dropout),
            nn.Linear(4 * size, size),
            Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        """``[T, D]`` -> ``[T, D]``."""
        modules: Any = tuple(self)
        norm, up, _, inner, down, outer = modules
        hidden = norm_linear(
            x,
            norm.weight,
            norm.bias,
            up.weight,
            up.bias,
            activation="relu",
            threshold=inner.threshold,
        )
        return add_linear(x, hidden, down.weight, down.bias, threshold=outer.threshold)


class HawkesLayer(nn.Module):
    """Hawkes attention and a feed-forward network, each with a residual.

    With ``X~ = LayerNorm(X)`` and ``A_h`` the attention weights of `hawkes_attention`:

        paper:        Q = K = X~,  V_h = ELU(X~ W_h),  X' = X + sum_h A_h V_h
        projections:  Q_h, K_h, V_h = X~ W, ELU on V,  X' = X + [A_1 V_1, ..., A_H V_H] W_o
        Y = X' + W_2 relu(W_1 LayerNorm(X'))

    The paper's form has ``s_ii = |x~_i|^2 / sqrt(D) = sqrt(D)`` with a plain LayerNorm, which no
    decay lowers: each token would see little but itself. A learned temperature, which starts at
    ``1 / sqrt(D)``, puts the scores on the scale of 1.
    """

    def __init__(
        self,
        size: int,
        num_heads: int,
        *,
        window: float,
        decay: Decay,
        half_lives: tuple[float, float],
        projections: bool,
        dropout: float,
        attention: Backend,
    ) -> None:
        super().__init__()
        if projections and size % num_heads:
            raise ValueError(f"embedding size {size} is not a multiple of {num_heads} heads")
        self.num_heads, self.window, self.decay, self.attention = (
            num_heads,
            window,
            decay,
            attention,
        )
        shortest, longest = (math.log(days) for days in half_lives)
        if num_heads == 1:  # the shortest alone would see no gap of a day and learn nothing from it
            shortest = (shortest + longest) / 2
        self.log_half_life = nn.Parameter(torch.linspace(shortest, longest, num_heads))
        self.attention_norm = nn.LayerNorm(size)
        self.dropout = Dropout(dropout)
        self.query_key = nn.Linear(size, 2 * size) if projections else None
        self.value = nn.Linear(size, size if projections else num_heads * size)
        self.output = nn.Linear(size, size) if projections else None
        self.log_temperature = (
            None if projections else nn.Parameter(torch.tensor(-0.5 * math.log(size)))
        )
        self.feed_forward = FeedForward(size, dropout)

    @property
    def decay_rate(self) -> Tensor:
        """Decay per day of each head, ``ln 2 / half-life``, ``[H]``."""
        return math.log(2.0) * torch.exp(-self.log_half_life)

    def forward(self, x: Tensor, batch: SequenceBatch, tokens: Tensor | None = None) -> Tensor:
        """``[T, D]`` -> ``[T, D]``, sequence by sequence; ``[N, D]`` for ``N`` of the tokens."""
        query, key, value = self._queries(x)
        attended = hawkes_attention(
            query,
            key,
            value,
            batch.days,
            batch.position,
            batch.cu_seqlens,
            self.decay_rate,
            window=self.window,
            decay=self.decay,
            sum_heads=self.output is None,
            backend=self.attention,
        )  # [T, H, Dv], or [T, Dv] where heads are summed
        if tokens is not None:
            x, attended = x[tokens], attended[tokens]
        if self.output is None:
            x = x + self.dropout(attended)
        else:
            output, threshold = self.output, self.dropout.threshold
            x = add_linear(x, attended.flatten(1), output.weight, output.bias, threshold=threshold)
        return self.feed_forward(x)

    def _queries(self, x: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Queries, keys and values; the keys are None where they are the queries."""
        norm = self.attention_norm
        if self.query_key is not None:
            parts = self.query_key, self.value
            projected = norm_linear(
                x,
                norm.weight,
                norm.bias,
                torch.cat([part.weight for part in parts]),
                torch.cat([part.bias for part in parts]),
                activation="elu",
                first_activated=self.query_key.out_features,
            )
            query, key, value = projected.view(x.shape[0], 3, self.num_heads, -1).unbind(1)
            return query, key, value
        x = norm(x)
        value = F.elu(self.value(x)).view(x.shape[0], self.num_heads, -1)
        assert self.log_temperature is not None
        # Q and K share the temperature, so the op still sees Q = K.
        return x * torch.exp(0.5 * self.log_temperature), None, value
