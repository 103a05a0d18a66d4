"""Parameters of a trained model as the start of another one, of more users and items."""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from emorec.data.interactions import Interactions
from emorec.data.vocabulary import Vocabulary
from emorec.nn.model import Recommender
from emorec.training.similarity import similar_items

__all__ = ["start_from_model"]

_SIMILAR = 20  # items that the vector of a new one is the mean of


@torch.no_grad()
def start_from_model(
    model: Recommender,
    trained: Recommender,
    log: Interactions,
    users: Vocabulary,
    items: Vocabulary,
) -> None:
    """Copies the parameters of a trained model, row by row where they belong to users or items.

    The rows of a new item are means over the items it is similar to, weighted by the similarities
    that are counted in the log; without any, they are means over all items, as the rows of a new
    user are over all users.

    Args:
        model: The model to start, for the users and items of ``log``.
        trained: A model of the same configuration, for other users and items.
        log: The log that ``model`` will be trained on.
        users: The users of ``trained``, ``U`` of them.
        items: The items of ``trained``, ``I`` of them.
    """
    row_of_user, row_of_item = (
        known.indices(wanted.ids) for known, wanted in ((users, log.users), (items, log.items))
    )
    of_items = _mixture(row_of_item, len(items), _weights_of_similar(row_of_item, log))
    of_users = _mixture(row_of_user, len(users))
    encoder = model.graph_encoder
    tables = (
        set() if encoder is None or encoder.num_rows is None else set(encoder.tables.parameters())
    )
    old = trained.state_dict()
    for name, value in model.named_parameters():
        before = old.pop(name)
        if value in tables:  # of each kind of feedback, a row per user
            kinds = before.reshape(-1, len(users), before.shape[1])
            value.copy_(torch.cat([_rows(of_users, of_kind) for of_kind in kinds]))
        elif before.dim() and len(before) == len(items) and len(value) == log.num_items:
            value.copy_(_rows(of_items, before))
        else:
            value.copy_(before)
    buffers = model.state_dict()
    for name, before in old.items():  # what is left of it
        if before.shape == buffers[name].shape:  # the others are counted
            buffers[name].copy_(before)


def _weights_of_similar(row: np.ndarray, log: Interactions) -> sparse.csr_matrix:
    """How similar each item of a log is to others, ``[J, J]``; empty if no item is new."""
    if (row >= 0).all():
        return sparse.csr_matrix((log.num_items, log.num_items))
    similar = similar_items(log, _SIMILAR)
    similar.setdiag(0)
    return similar.maximum(0)


def _mixture(
    row: np.ndarray, num_rows: int, weights: sparse.csr_matrix | None = None
) -> sparse.csr_matrix:
    """The matrix that makes new rows from old ones, ``[J, I]``; its rows sum to 1.

    Args:
        row: The old row of each new one, below 0 where there is none, int64 ``[J]``.
        num_rows: Number of old rows, ``I``.
        weights: Weights of the new rows in each of the new ones without an old row, ``[J, J]``.
    """
    size, known = len(row), np.flatnonzero(row >= 0)
    kept = sparse.csr_matrix((np.ones(len(known)), (known, row[known])), shape=(size, num_rows))
    is_new = row < 0
    if not is_new.any():
        return kept
    mixed = sparse.csr_matrix((size, num_rows))
    if weights is not None:
        mixed = sparse.diags(is_new.astype(float)) @ weights @ kept
    total = np.asarray(mixed.sum(axis=1)).ravel()
    mixed = sparse.diags(np.where(total > 0, 1 / np.maximum(total, 1e-12), 0.0)) @ mixed
    alone = np.flatnonzero(is_new & (total <= 0))
    mean = sparse.csr_matrix(np.full((1, num_rows), 1 / num_rows))
    everything = sparse.csr_matrix(
        (np.ones(len(alone)), (alone, np.zeros(len(alone)))), shape=(size, 1)
    )
    return (kept + mixed + everything @ mean).tocsr()


def _rows(mixture: sparse.csr_matrix, old: Tensor) -> Tensor:
    """New rows of a table, ``[J, ...]``."""
    flat = old.reshape(len(old), -1).double().cpu().numpy()
    return torch.from_numpy(mixture @ flat).reshape(-1, *old.shape[1:])
