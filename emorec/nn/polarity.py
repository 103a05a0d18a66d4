"""Heads that predict whether a user will like what comes next."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ItemPolarity", "NextPolarity"]


class NextPolarity(nn.Module):
    """Polarity of the next event, whatever its item (paper, 3.3).

        logit P(positive | x) = <w, x> + b

    Args:
        size: Width of states, ``D``.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.project = nn.Linear(size, 1)

    def forward(self, state: Tensor, items: Tensor) -> Tensor:
        """Log-odds.

        Args:
            state: States ``x``, ``[T, D]``.
            items: Items of the events, int64 ``[T, K]``; not looked at.

        Returns:
            ``[T, 1]``, which holds for each of the items.
        """
        return self.project(state)


class ItemPolarity(nn.Module):
    """Polarity of an event with a given item.

        p = W_2 relu(W_1 x)                          taste, of R numbers and a level p_0
        logit P(positive | x, i) = <p, q_i> + p_0 + q_i0

    Items have vectors ``q`` of their own: those of the ranking say which events are likely, and
    people also meet, in numbers, what they do not like.

    Args:
        num_items: Size of the catalogue, ``I``.
        size: Width of states, ``D``.
        rank: Width of the taste, ``R``.
    """

    def __init__(self, num_items: int, size: int, rank: int = 16) -> None:
        super().__init__()
        self.taste = nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, rank + 1))
        self.item = nn.Embedding(num_items, rank + 1)
        nn.init.normal_(self.item.weight, std=0.02)

    def forward(self, state: Tensor, items: Tensor) -> Tensor:
        """Log-odds for given items.

        Args:
            state: States ``x``, ``[T, D]``.
            items: Item indices, int64 ``[T, K]``.

        Returns:
            ``[T, K]``.
        """
        taste, item = self.taste(state), self.item(items)
        likes = torch.einsum("tr,tkr->tk", taste[:, 1:], item[..., 1:])
        return likes + taste[:, :1] + item[..., 0]

    def log_probability(self, state: Tensor) -> Tensor:
        """``log P(positive | x, i)`` for every item, ``[T, D]`` -> ``[T, I]``."""
        taste, item = self.taste(state), self.item.weight
        return F.logsigmoid(taste[:, 1:] @ item[:, 1:].T + taste[:, :1] + item[:, 0])
