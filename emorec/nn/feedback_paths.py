"""Counted paths of the feedback graph: from a user's items to similar ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from emorec.data.feedback import Feedback
from emorec.data.graph import FeedbackGraph

__all__ = ["DISLIKE_DECAY", "MOST_NEWER", "NUM_NEAR", "FeedbackPaths", "SparseScores"]

NUM_NEAR = 20
"""Items near to a disliked one: the item itself and the nineteen that are most similar to it."""

DISLIKE_DECAY = 25.0
"""Number of newer events after which a dislike has 1/e of its effect."""

MOST_NEWER = 125
"""From so many newer events on a dislike has no effect; exp(-125 / 25) is below 1/100."""


_TINY = torch.finfo(torch.float32).tiny
_EVENTS_OF_A_BLOCK = 1024  # whose paths fit into caches


class SparseScores(NamedTuple):
    """Scores of the pairs of user and item that have one, sorted by item; others have 0.

    Attributes:
        item: Item indices, int64 ``[P]``, ascending.
        user: Users, int64 ``[P]``, from 0 to ``num_users - 1``.
        score: ``[P]``.
        num_users: ``U``.
    """

    item: Tensor
    user: Tensor
    score: Tensor
    num_users: int

    def of(self, items: slice) -> Tensor:
        """Those of a slice of the items, zeros included, ``[U, stop - start]``."""
        ends = torch.tensor([items.start, items.stop]).to(self.item.device)
        first, last = torch.searchsorted(self.item, ends).tolist()
        found = self.score.new_zeros(self.num_users, items.stop - items.start)
        found[self.user[first:last], self.item[first:last] - items.start] = self.score[first:last]
        return found


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
        owner, item, weight = self._starts(graph)
        num_items = len(self.item)
        total = weight.new_zeros(len(graph.users) * num_items)
        first = owner * num_items
        # Many paths: shorter indices take half of the memory.
        if len(total) < 2**31:  # pragma: no branch - more scores than a test has memory for
            first = first.int()
        blocks = zip(
            *(each.split(_EVENTS_OF_A_BLOCK) for each in (first, item, weight)), strict=True
        )
        for start, items, weights in blocks:
            ends = self.item.index_select(0, items).add(start[:, None])
            value = self.similarity.index_select(0, items).mul_(weights[:, None])
            total.index_add_(0, ends.flatten(), value.flatten())
        total = total.view(-1, num_items)
        return total.div_(total.amax(1, keepdim=True).clamp_(min=_TINY))

    def sparse(self, graph: FeedbackGraph) -> SparseScores:
        """The same scores without the zeros: in a large catalogue, paths reach few of the items."""
        owner, item, weight = self._starts(graph)
        owner, value = owner[:, None], weight[:, None] * self.similarity[item]
        item, users = self.item[item].long(), len(graph.users)
        cell, place = torch.unique((item * users + owner).flatten(), return_inverse=True)
        total = value.new_zeros(len(cell)).index_add_(0, place, value.flatten())
        user = cell % users
        largest = value.new_zeros(users).scatter_reduce_(0, user, total, "amax")
        return SparseScores(cell // users, user, total / largest.clamp(min=_TINY)[user], users)

    def dislikes(self, graph: FeedbackGraph) -> Tensor:
        """How near each item is to explicit dislikes of the graph's users, ``[U, I]`` in [0, 1]."""
        near = self.similarity.new_zeros(len(graph.users) * len(self.item))
        if _has_kinds(graph):
            owner, item, weight = self._near_dislikes(graph)
            cell = owner * len(self.item) + item
            near.scatter_reduce_(0, cell.flatten(), weight.flatten(), "amax")
        return near.view(-1, len(self.item))

    def sparse_dislikes(self, graph: FeedbackGraph) -> SparseScores:
        """The same scores without the zeros."""
        users = len(graph.users)
        if not _has_kinds(graph):
            none = torch.zeros(0, dtype=torch.int64, device=self.item.device)
            return SparseScores(none, none, self.similarity.new_zeros(0), users)
        owner, item, weight = self._near_dislikes(graph)
        cell, place = torch.unique((item * users + owner).flatten(), return_inverse=True)
        near = weight.new_zeros(len(cell)).scatter_reduce_(0, place, weight.flatten(), "amax")
        return SparseScores(cell // users, cell % users, near, users)

    def nearest(self, items: Tensor) -> Tensor:
        """The `NUM_NEAR` items most similar to each of some, the item itself first.

        Args:
            items: Item indices, int64 ``[N]``.

        Returns:
            int64 ``[N, M]``; where an item has fewer similar ones, it is itself repeated.
        """
        found, own = self.item.index_select(0, items).long(), items[:, None]
        similarity = self.similarity.index_select(0, items).masked_fill_(found == own, -torch.inf)
        size = min(NUM_NEAR, similarity.shape[1])
        similarity, place = similarity.topk(size)
        near = torch.where(similarity > 0, found.gather(1, place), own)
        return torch.cat([own, near[:, : NUM_NEAR - 1]], dim=1)

    def _starts(self, graph: FeedbackGraph) -> tuple[Tensor, Tensor, Tensor]:
        """Where paths start: users, items and weights of the events that count, ``[E]`` each."""
        kind, owner = _of_events(graph)
        share = torch.ones_like(graph.num_newer, dtype=self.similarity.dtype)
        if _has_kinds(graph):
            share = torch.tensor(self.SHARES).to(kind.device)[kind]
        counts = share > 0
        weight = share * torch.exp(-graph.num_newer / self.decay_length)
        return owner[counts], graph.events.item[counts].long(), weight[counts]

    def _near_dislikes(self, graph: FeedbackGraph) -> tuple[Tensor, Tensor, Tensor]:
        """Users ``[E, 1]``, items near to dislikes ``[E, M]`` and how much, ``[E, M]``."""
        kind, owner = _of_events(graph)
        counts = (kind == Feedback.EXPLICIT_NEGATIVE) & (graph.num_newer < MOST_NEWER)
        item = self.nearest(graph.events.item[counts].long())
        weight = torch.exp(-graph.num_newer[counts, None] / DISLIKE_DECAY)
        return owner[counts, None], item, weight.expand_as(item).to(self.similarity.dtype)


def _has_kinds(graph: FeedbackGraph) -> bool:
    return "user" not in graph.num_nodes


def _of_events(graph: FeedbackGraph) -> tuple[Tensor, Tensor]:
    """Kind of feedback and user node of each event, int64 ``[E]`` each."""
    node = graph.events.node_by_event
    return graph.kind[node], graph.owner[node]
