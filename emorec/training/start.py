"""What is known of a log before training: singular vectors, popularity, similarities, counts."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy import sparse
from scipy.sparse.linalg import svds
from torch import Tensor

from emorec.data.interactions import Interactions
from emorec.data.sequences import EventSequences
from emorec.nn.model import Recommender
from emorec.nn.polarity import ItemPolarity
from emorec.training.similarity import similar_items

__all__ = ["count", "start_from_log"]

_SPREAD = 0.5  # standard deviation of scores, apart from the bias
_TILT = 0.25  # exponent of an item's events in C
_POPULARITY = 0.3  # exp(bias) is this power of an item's likes
_USERS = 512  # that the spread is measured on
_EMBEDDING_SPREAD = 0.1  # standard deviation of the encoders' embeddings


def count(model: Recommender, log: Interactions, progress: bool = False) -> None:
    """Gives a model what is counted in a log and not trained.

    That is the similarities of its feedback paths, and the prior of its polarity head.

    Args:
        model: The model.
        log: The log that it is trained on.
        progress: Whether to show a progress bar.
    """
    if model.feedback_paths is not None:
        num_similar = model.feedback_paths.item.shape[1] - 1
        model.feedback_paths.fit(similar_items(log, num_similar, progress))
    if isinstance(model.polarity, ItemPolarity):
        model.polarity.fit(log)


@torch.no_grad()
def start_from_log(model: Recommender, log: Interactions, embeddings: bool = False) -> None:
    """Initialises vectors of items from the log.

        D_u^-1/2 A D_i^-1/2 ~ U S V^T       source = C^-1 V S^1/2       target = C V S^1/2
        bias_i = 0.3 log(1 + likes of i)    embedding_i = 0.1 sqrt(D) (V S^1/2)_i / |(V S^1/2)_i|

    ``A`` is 1 where a user has an event with an item, the diagonals ``D`` hold its row and column
    sums, and ``C = D_i^1/4`` divided by its mean, so that events with frequent items count less and
    scores of frequent items are higher. With ``D_i^1/2`` this is the linear filter of spectral
    methods, which is better on sparse logs only. The scale of a feedback sum gives scores a small
    spread, so that training starts from the directions of the vectors and learns their lengths.
    Embeddings of all items start with one length, that of random ones.

    Args:
        model: The model, untrained.
        log: The log that it will be trained on.
        embeddings: Whether to initialise the encoders' embeddings of items, too.
    """
    encoder = model.feedback_sum
    sizes = [] if encoder is None else [encoder.source.embedding_dim]
    if embeddings:
        sizes.append(model.item_vectors.shape[1])
    if not sizes:
        return
    vectors, tilt = _singular_vectors(log, max(sizes))
    if embeddings:
        size = model.item_vectors.shape[1]
        direction = F.normalize(vectors[:, :size], dim=1)
        model.item_vectors.copy_(_EMBEDDING_SPREAD * size**0.5 * direction)
    if encoder is None:
        return
    vectors = vectors[:, : encoder.source.embedding_dim]
    encoder.source.weight.copy_(vectors / tilt)
    encoder.target.weight.copy_(vectors * tilt)
    likes = np.bincount(log.item[log.is_positive], minlength=log.num_items)
    encoder.bias.copy_(_POPULARITY * torch.from_numpy(likes).log1p())
    events = EventSequences.build(log)
    source = model.graph_source(events, log.num_items)
    assert source is not None
    users = np.flatnonzero(events.lengths)[:_USERS]
    graph = source.graph(users, events.lengths[users]).to(encoder.bias.device)
    spread = (encoder(graph) @ encoder.target.weight.T).std()
    if spread > 0:
        encoder.scale.mul_(_SPREAD / spread)


def _singular_vectors(log: Interactions, size: int) -> tuple[Tensor, Tensor]:
    """``V S^1/2`` ``[I, D]``, its last columns 0 if the rank is lower, and ``C`` ``[I, 1]``."""
    shape = log.num_users, log.num_items
    seen = sparse.csr_matrix((np.ones(len(log)), (log.user, log.item)), shape=shape)
    seen.data[:] = 1  # however often
    of_users, of_items = (np.maximum(np.asarray(seen.sum(axis)).ravel(), 1) for axis in (1, 0))
    normalised = sparse.diags(of_users**-0.5) @ seen @ sparse.diags(of_items**-0.5)
    vectors = np.zeros((log.num_items, size), np.float32)
    rank = min(size, min(shape) - 1)
    if rank > 0:
        # SciPy's own starting vector is random.
        _, values, right = svds(normalised, k=rank, v0=np.ones(min(shape)))
        vectors[:, :rank] = (right.T * np.sqrt(values))[:, ::-1]  # the largest first
    tilt = (of_items**_TILT)[:, None]
    return torch.from_numpy(vectors), torch.from_numpy(tilt / tilt.mean()).float()
