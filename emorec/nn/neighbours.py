"""A vote of the items that a user met for the items most like them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from emorec.data.feedback import Feedback
from emorec.data.sequences import SequenceBatch

__all__ = ["Neighbours"]


class Neighbours(nn.Module):
    """Paths from a user's items over the other users who had them to further items.

        vote_i = sum_j c_j exp(-age_j / memory) similarity(j, i)

    over a user's events ``j``, of which ``age_j`` are newer. What the user made of an item counts:
    ``c`` is 1 for a like, 0.7 and 0.3 for implicit positive and negative feedback; explicit
    dislikes have no vote. A user's largest vote is 1. Nothing here is trained by gradients:
    similarities are counted from a log, see `emorec.similar_items`, so that rare items profit whose
    embeddings have seen few steps. They are buffers, and so part of a checkpoint.

    Args:
        num_items: Size of the catalogue, ``I``.
        num_neighbours: Similar items kept per item, ``N``.

    Attributes:
        weight: What the vote is multiplied by in the ranking.
        memory: Events after which a voice has 1/e of its weight; inf: no voice fades. Validation
            may choose both.
    """

    SHARES = (1.0, 0.7, 0.3, 0.0)  # of the kinds of feedback, in their order

    item: Tensor  # int32 [I, N]
    similarity: Tensor  # [I, N]; 0 where an item has fewer neighbours
    weight: Tensor
    memory: Tensor

    def __init__(self, num_items: int, num_neighbours: int) -> None:
        super().__init__()
        shape = num_items, min(num_neighbours, num_items)
        self.register_buffer("item", torch.zeros(shape, dtype=torch.int32))
        self.register_buffer("similarity", torch.zeros(shape))
        self.register_buffer("weight", torch.ones(()))
        self.register_buffer("memory", torch.tensor(20.0))

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        """Checks items, too: an index past the catalogue would be one of another user's votes."""
        super()._load_from_state_dict(state_dict, prefix, *rest)
        errors: list[str] = rest[-1]
        wrong = (self.item < 0) | (self.item >= len(self.item))
        if wrong.any():
            found = int(self.item[wrong][0])
            errors.append(
                f"{prefix}item holds {found}, but items are numbered from 0 to {len(self.item) - 1}"
            )

    def remember(self, similarity: sparse.csr_matrix) -> None:
        """Takes similarities in, CSR ``[I, I]``: row ``j`` holds at most ``N``, of item ``j``."""
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

    def forward(self, batch: SequenceBatch) -> Tensor:
        """Votes after the last token of ``B`` sequences, ``[B, I]``, at most 1."""
        votes = batch.feedback < Feedback.EXPLICIT_NEGATIVE
        votes &= batch.position > 0
        age = batch.position[batch.last][batch.row] - batch.position
        share = torch.tensor(self.SHARES, device=age.device)[batch.feedback[votes].long()]
        weight = (share * torch.exp(-age[votes] / self.memory))[:, None]  # [T, 1]
        item, row = batch.item[votes], batch.row[votes]
        num_items = len(self.item)
        cell = row[:, None] * num_items + self.item[item]
        total = weight.new_zeros(len(batch.user) * num_items)
        total.index_add_(0, cell.flatten(), (weight * self.similarity[item]).flatten())
        total = total.view(-1, num_items)
        return total / total.amax(1, keepdim=True).clamp(min=torch.finfo(total.dtype).tiny)
