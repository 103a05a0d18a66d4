"""Neighbour scores: items similar to those of a history, by similarities counted in a log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from emorec.baselines.item_models import RidgeKNN, largest_of_rows
from emorec.data.feedback import Feedback
from emorec.data.interactions import Interactions
from emorec.data.sequences import SequenceBatch

__all__ = ["Neighbours", "similar_items"]


class Neighbours(nn.Module):
    """Scores items by their similarity to the items of a user's history.

        score_i = sum_j c_j exp(-age_j / decay_length) S_ji

    over a user's events ``j``, of which ``age_j`` are newer. The scores of a user are divided by
    the largest of them. The kind of feedback decides ``c``: 1
    for explicit positive, 0.7 for implicit positive and 0.3 for implicit negative feedback;
    explicit dislikes contribute nothing. The similarities ``S`` are counted by `similar_items` and
    not trained by gradients, so that they cover rare items whose embeddings took few steps. They
    are buffers, and so part of saved models.

    Args:
        num_items: Size of the catalogue, ``I``.
        num_neighbours: Similar items kept per item, ``N``.

    Attributes:
        weight: Factor of the score in the ranking.
        decay_length: Number of newer events after which an event contributes 1/e; inf: all events
            contribute alike. Validation chooses both, see `emorec.training.tuning`.
    """

    SHARES = (1.0, 0.7, 0.3, 0.0)  # c, of each kind of feedback

    item: Tensor  # int32 [I, N]
    similarity: Tensor  # [I, N]; 0 where an item has fewer neighbours
    weight: Tensor
    decay_length: Tensor

    def __init__(self, num_items: int, num_neighbours: int) -> None:
        super().__init__()
        shape = num_items, min(num_neighbours, num_items)
        self.register_buffer("item", torch.zeros(shape, dtype=torch.int32))
        self.register_buffer("similarity", torch.zeros(shape))
        self.register_buffer("weight", torch.ones(()))
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

    def forward(self, batch: SequenceBatch) -> Tensor:
        """Scores after the last token of ``B`` sequences, ``[B, I]``, at most 1."""
        counts = batch.feedback < Feedback.EXPLICIT_NEGATIVE
        counts &= batch.position > 0
        age = batch.position[batch.last][batch.row] - batch.position
        share = torch.tensor(self.SHARES, device=age.device)[batch.feedback[counts].long()]
        weight = (share * torch.exp(-age[counts] / self.decay_length))[:, None]  # [T, 1]
        item, row = batch.item[counts], batch.row[counts]
        num_items = len(self.item)
        cell = row[:, None] * num_items + self.item[item]
        total = weight.new_zeros(len(batch.user) * num_items)
        total.index_add_(0, cell.flatten(), (weight * self.similarity[item]).flatten())
        total = total.view(-1, num_items)
        return total / total.amax(1, keepdim=True).clamp(min=torch.finfo(total.dtype).tiny)


def similar_items(
    log: Interactions, num_neighbours: int, progress: bool = False
) -> sparse.csr_matrix:
    """Counts how similar items are: cosine similarity plus regression weights.

        S_ij = cosine_ij / a + W_ij / b

    The cosine measures how many users two items share. The weights ``W`` of
    `emorec.baselines.RidgeKNN` measure what an item adds to the prediction from the others. ``a``
    and ``b`` put both on one scale: they are the means over items of the largest entry of a row.

    Args:
        log: The events to count.
        num_neighbours: Items kept per item, ``N``, beside itself.
        progress: Whether to show a progress bar.

    Returns:
        CSR ``[I, I]``: row ``i`` holds the at most ``N + 1`` entries of largest size.
    """
    model = RidgeKNN(num_neighbours).fit(log, progress)
    both = _scaled(model.similarity) + _scaled(model.weights)
    return largest_of_rows(both, num_neighbours + 1)


def _scaled(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    largest = matrix.max(axis=1).toarray().mean() if matrix.nnz else 0
    return matrix / largest if largest > 0 else matrix
