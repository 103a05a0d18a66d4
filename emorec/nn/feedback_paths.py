"""Counted paths of the feedback graph: from a user's items to similar ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from emorec.data.feedback import Feedback
from emorec.data.graph import FeedbackGraph

__all__ = ["DISLIKE_DECAY", "NUM_NEAR", "FeedbackPaths"]

NUM_NEAR = 20
"""Items near to a disliked one: the item itself and the nineteen that are most similar to it."""

DISLIKE_DECAY = 25.0
"""Number of newer events after which an explicit dislike has 1/e of its effect."""

_MOST_NEWER = 125  # exp(-125 / 25) is less than one part in a hundred


class FeedbackPaths(nn.Module):
    """Scores items by paths from the items of a user's feedback nodes, through users, to items.

        paths_i    = sum_j c_j exp(-newer_j / decay_length) S_ji, divided by the user's largest
        dislikes_i = max_j exp(-newer_j / 25) [i is among the 20 items nearest to j]

    The sum is over a user's events ``j``, of which ``newer_j`` are newer. The kind of feedback
    decides ``c``: 1 for explicit positive, 0.7 for implicit positive, 0.3 for implicit negative
    feedback and 0 for explicit dislikes. The maximum is over explicit dislikes: one lowers what is
    near to it from the next list on, and fades with the events that follow.

    The similarities ``S`` are counted in the log by `emorec.training.similarity.similar_items` and
    not trained by gradients, so that they cover rare items whose vectors took few steps. They are
    buffers, and so part of saved models. A graph without feedback nodes knows no kinds: each event
    has ``c`` = 1, and there are no dislikes.

    Args:
        num_items: Size of the catalogue, ``I``.
        num_similar: Similar items kept per item, beside itself.

    Attributes:
        ranking_weight: Factor of the paths' scores in the ranking.
        decay_length: Number of newer events after which an event contributes 1/e; inf: all events
            contribute alike. Validation chooses both, see `emorec.training.tuning`.
    """

    SHARES = (1.0, 0.7, 0.3, 0.0)  # c, of each kind of feedback

    item: Tensor  # int32 [I, N]
    similarity: Tensor  # [I, N]; 0 where an item has fewer similar ones
    ranking_weight: Tensor
    decay_length: Tensor

    def __init__(self, num_items: int, num_similar: int) -> None:
        super().__init__()
        shape = num_items, min(1 + num_similar, num_items)
        self.register_buffer("item", torch.zeros(shape, dtype=torch.int32))
        self.register_buffer("similarity", torch.zeros(shape))
        self.register_buffer("ranking_weight", torch.tensor(2.0))
        self.register_buffer("decay_length", torch.tensor(20.0))

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        """Checks items, too: an index past the catalogue would add to another user's scores."""
        super()._load_from_state_dict(state_dict, prefix, *rest)
        errors: list[str] = rest[-1]
        wrong = (self.item < 0) | (self.item >= len(self.item))
        if wrong.any():
            found = int(self.item[wrong][0])
            errors.append(
                f"{prefix}item holds {found}, but items are numbered from 0 to {len(self.item) - 1}"
            )

    def fit(self, similarity: sparse.csr_matrix) -> None:
        """Stores similarities, CSR ``[I, I]``: row ``j`` holds at most ``N``, of item ``j``."""
        counts = np.diff(similarity.indptr)
        row = np.repeat(np.arange(len(counts)), counts)
        place = np.arange(len(row)) - similarity.indptr[row]
        self.item.zero_()
        self.similarity.zero_()
        self.item[row, place] = torch.from_numpy(similarity.indices.astype(np.int32)).to(
            self.item.device
        )
        self.similarity[row, place] = torch.from_numpy(similarity.data.astype(np.float32)).to(
            self.similarity.device
        )

    def forward(self, graph: FeedbackGraph) -> Tensor:
        """Scores of all items for the graph's users, ``[U, I]``, at most 1."""
        kind, owner = _of_events(graph)
        share = torch.ones_like(graph.num_newer, dtype=self.similarity.dtype)
        if _has_kinds(graph):
            share = torch.tensor(self.SHARES, device=kind.device)[kind]
        counts = share > 0
        item = graph.events.item[counts].long()
        weight = (share * torch.exp(-graph.num_newer / self.decay_length))[counts, None]  # [E, 1]
        num_items = len(self.item)
        cell = owner[counts, None] * num_items + self.item[item]
        total = weight.new_zeros(len(graph.users) * num_items)
        total.index_add_(0, cell.flatten(), (weight * self.similarity[item]).flatten())
        total = total.view(-1, num_items)
        return total / total.amax(1, keepdim=True).clamp(min=torch.finfo(total.dtype).tiny)

    def dislikes(self, graph: FeedbackGraph) -> Tensor:
        """How near each item is to explicit dislikes of the graph's users, ``[U, I]`` in [0, 1]."""
        near = self.similarity.new_zeros(len(graph.users) * len(self.item))
        if _has_kinds(graph):
            kind, owner = _of_events(graph)
            counts = (kind == Feedback.EXPLICIT_NEGATIVE) & (graph.num_newer < _MOST_NEWER)
            items = self.nearest(graph.events.item[counts].long())
            cell = owner[counts, None] * len(self.item) + items
            weight = torch.exp(-graph.num_newer[counts, None] / DISLIKE_DECAY)
            weight = weight.expand_as(cell).to(near.dtype)
            near.scatter_reduce_(0, cell.flatten(), weight.flatten(), "amax")
        return near.view(-1, len(self.item))

    def nearest(self, items: Tensor) -> Tensor:
        """The `NUM_NEAR` items most similar to each of some, the item itself first.

        Args:
            items: Item indices, int64 ``[N]``.

        Returns:
            int64 ``[N, M]``; where an item has fewer similar ones, it is itself repeated.
        """
        found, own = self.item[items].long(), items[:, None]
        similarity = self.similarity[items].masked_fill(found == own, -torch.inf)
        size = min(NUM_NEAR, similarity.shape[1])
        similarity, place = similarity.topk(size)
        near = torch.where(similarity > 0, found.gather(1, place), own)
        return torch.cat([own, near[:, : NUM_NEAR - 1]], dim=1)


def _has_kinds(graph: FeedbackGraph) -> bool:
    return "user" not in graph.num_nodes


def _of_events(graph: FeedbackGraph) -> tuple[Tensor, Tensor]:
    """Kind of feedback and user node of each event, int64 ``[E]`` each."""
    node = graph.events.node_by_event
    return graph.kind[node], graph.owner[node]
