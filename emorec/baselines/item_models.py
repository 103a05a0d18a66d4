"""Item models: neighbours and regressions that score a user's query.

Each has ``fit(interactions)``, which returns the recommender itself, and is then a scorer: called
with user indices, int64 ``[B]``, it returns a score for every item, float32 ``[B, num_items]``.

A user's query, a weight per item, is multiplied by weights between items. All take

    train_on_likes  learn the weights between items from positive feedback alone
    query_likes     leave a user's other events out of the query
    recency         tau: the query weighs an item by exp(-age / tau), where age counts the user's
                    later events, of any feedback; None weighs all items of the history alike

An item that a user has seen more than once has the weight of the last event.
"""

from __future__ import annotations

from typing import Self

import numpy as np
import torch
from scipy import sparse

from emorec.baselines.neighbours import REGULARIZATION, nearest_items, neighbour_weights
from emorec.data.interactions import Interactions
from emorec.evaluation.top_k import seen_matrix

__all__ = ["EASE", "ItemKNN", "RidgeKNN"]


class _ItemModel:
    """The arguments that all item models share, see the module."""

    def __init__(self, train_on_likes: bool, query_likes: bool, recency: float | None) -> None:
        if recency is not None and not recency > 0:
            raise ValueError(f"recency must be positive or None, got {recency}")
        self.train_on_likes = train_on_likes
        self.query_likes = query_likes
        self.recency = recency

    def ask(self, interactions: Interactions, recency: float | None) -> None:
        """Changes the queries of a fitted model, and leaves the weights between items.

        Args:
            interactions: The log that it was fitted to.
            recency: tau; None weighs all items of the history alike.
        """
        self.recency = recency
        self.query = _queries(interactions, self.query_likes, recency)

    def _known(self, interactions: Interactions) -> Interactions:
        """Stores the queries; returns the events that the weights between items are fitted to."""
        self.ask(interactions, self.recency)
        return (
            interactions.select(interactions.is_positive) if self.train_on_likes else interactions
        )


class ItemKNN(_ItemModel):
    r"""Scores an item by its similarity to the items of the user's history.

    Items are binary vectors over users. With n_i users who have item i, n_ij who have both and
    the query q_u of user u,

        similarity(i, j) = n_ij / (sqrt(n_i n_j) + shrink)
        score(u, j) = sum over items i, with j among the ``neighbours`` most similar to i,
                      of q_u(i) similarity(i, j)

    An item is one of its own neighbours, so ``neighbours - 1`` others are kept. Of items
    equally similar, lower indices come first.

    Args:
        neighbours: Similar items kept per item, itself included.
        shrink: Damps similarities that rest on few users; 0 is the cosine.
        chunk_size: Items compared at a time, at most; fewer where they share many users.
        train_on_likes: As for all item models; see the module.
        query_likes: As for all item models; see the module.
        recency: As for all item models; see the module.

    References:
        M. Deshpande and G. Karypis, "Item-Based Top-N Recommendation Algorithms", ACM TOIS 22(1),
        2004.

    Raises:
        ValueError: If ``neighbours`` is below 2, ``shrink`` negative, ``chunk_size`` below 1 or
            ``recency`` not positive.
    """

    def __init__(
        self,
        neighbours: int = 100,
        shrink: float = 0.0,
        chunk_size: int = 512,
        *,
        train_on_likes: bool = False,
        query_likes: bool = False,
        recency: float | None = None,
    ) -> None:
        if neighbours < 2:
            raise ValueError(f"neighbours must be at least 2 (itself and one), got {neighbours}")
        if not shrink >= 0:
            raise ValueError(f"shrink must not be negative, got {shrink}")
        if chunk_size < 1:
            raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
        self.neighbours = neighbours
        self.shrink = shrink
        self.chunk_size = chunk_size
        super().__init__(train_on_likes, query_likes, recency)

    def fit(self, interactions: Interactions) -> Self:
        """Finds the neighbours of every item."""
        history = seen_matrix(self._known(interactions))
        # Row i: the neighbours of i.
        self.similarity = nearest_items(history, self.neighbours, self.shrink, self.chunk_size)
        return self

    def __call__(self, users: torch.Tensor) -> torch.Tensor:
        """Scores of the users' queries, float32 ``[B, num_items]``."""
        scores = self.query[users.cpu().numpy()] @ self.similarity
        return torch.from_numpy(scores.toarray())


class RidgeKNN(_ItemModel):
    r"""Scores an item by a linear regression on those of its neighbours that the user has.

    As EASE, but an item is explained by the ``neighbours`` most similar items alone (by cosine, see
    `ItemKNN`), which suits large catalogues: `emorec.baselines.neighbours` has what it costs. With
    G = X^T X for the binary matrix X of users and items, and N the neighbours of item j,

        w_j = (G_NN + regularization I)^-1 G_Nj,  W_ij = w_j(i) for i in N, else 0
        score(u, j) = sum over items i of q_u(i) W_ij

    Args:
        neighbours: Items that explain an item, itself not included.
        regularization: lambda, in squared interactions; the larger, the smaller the weights.
        train_on_likes: As for all item models; see the module.
        query_likes: As for all item models; see the module.
        recency: As for all item models; see the module.

    References:
        X. Ning and G. Karypis, "SLIM: Sparse Linear Methods for Top-N Recommender Systems", ICDM
        2011, section IV.D, with a squared penalty in place of theirs.

    Raises:
        ValueError: If ``neighbours`` is below 1, or ``regularization`` or ``recency`` not positive.
    """

    def __init__(
        self,
        neighbours: int = 100,
        regularization: float = REGULARIZATION,
        *,
        train_on_likes: bool = False,
        query_likes: bool = False,
        recency: float | None = None,
    ) -> None:
        if neighbours < 1:
            raise ValueError(f"neighbours must be at least 1, got {neighbours}")
        _check_regularization(regularization)
        self.neighbours = neighbours
        self.regularization = regularization
        super().__init__(train_on_likes, query_likes, recency)

    def fit(self, interactions: Interactions, progress: bool = False) -> Self:
        """Finds the neighbours of every item and solves for their weights.

        Args:
            interactions: The log.
            progress: Whether to show progress bars.
        """
        history = seen_matrix(self._known(interactions))
        near = nearest_items(history, self.neighbours + 1, progress=progress)
        self.weights = neighbour_weights(history, near, self.regularization, progress)
        self.similarity = near
        return self

    def __call__(self, users: torch.Tensor) -> torch.Tensor:
        """Scores of the users' queries, float32 ``[B, num_items]``."""
        return torch.from_numpy((self.query[users.cpu().numpy()] @ self.weights).toarray())


class EASE(_ItemModel):
    r"""Scores an item by a linear regression on the items of the user's history.

    With X the binary matrix of users and items, the weights W between items are the exact minimum
    of ||X - X W||^2 + regularization ||W||^2 whose diagonal is zero, so that no item explains
    itself:

        P = (X^T X + regularization I)^-1,  W_ij = -P_ij / P_jj for i != j,  W_jj = 0
        score(u, j) = sum over items i of q_u(i) W_ij

    Items without events score 0. The inverse is taken in float64, in place;
    the weights are float32. Fitting takes some ``12 num_items^2`` bytes, of which 4 stay (12,000
    items: 1.7 GB, then 0.6), and time that grows with num_items^3.

    Args:
        regularization: lambda, in squared interactions; the larger, the smaller the weights.
        train_on_likes: As for all item models; see the module.
        query_likes: As for all item models; see the module.
        recency: As for all item models; see the module.

    References:
        H. Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019,
        arXiv:1905.03375.

    Raises:
        ValueError: If ``regularization`` or ``recency`` is not positive.
    """

    def __init__(
        self,
        regularization: float = 1000.0,
        *,
        train_on_likes: bool = False,
        query_likes: bool = False,
        recency: float | None = None,
    ) -> None:
        _check_regularization(regularization)
        self.regularization = regularization
        super().__init__(train_on_likes, query_likes, recency)

    def fit(self, interactions: Interactions) -> Self:
        """Solves for the weights between items."""
        matrix = seen_matrix(self._known(interactions))
        gram = (matrix.T @ matrix).astype(np.float64).toarray()  # [num_items, num_items]
        gram[np.diag_indices_from(gram)] += self.regularization
        inverse = _inverse(gram)
        self.weights = np.ascontiguousarray(inverse) / -inverse.diagonal()
        np.fill_diagonal(self.weights, 0)
        return self

    def __call__(self, users: torch.Tensor) -> torch.Tensor:
        """Scores of the users' queries, float32 ``[B, num_items]``."""
        return torch.from_numpy(self.query[users.cpu().numpy()] @ self.weights)


def _queries(
    interactions: Interactions, likes_only: bool, recency: float | None
) -> sparse.csr_matrix:
    """The users' queries: weights of items, float32 CSR ``[num_users, num_items]``."""
    newest_first = interactions.chronological()[::-1]
    user = interactions.user[newest_first]  # descending
    age = np.arange(len(user)) - np.searchsorted(-user, -user)  # 0 = the user's last event
    weight = np.ones(len(user)) if recency is None else np.exp(-age / recency)
    if likes_only:
        liked = interactions.is_positive[newest_first]
        newest_first, weight = newest_first[liked], weight[liked]
    cell = interactions.user * interactions.num_items + interactions.item
    cells, last = np.unique(cell[newest_first], return_index=True)
    return sparse.csr_matrix(
        (weight[last].astype(np.float32), np.divmod(cells, max(1, interactions.num_items))),
        shape=(interactions.num_users, interactions.num_items),
    )


def _inverse(matrix: np.ndarray) -> np.ndarray:
    """The inverse, float32, of a symmetric positive definite float64 ``[N, N]``, overwritten."""
    if not len(matrix):
        return matrix.astype(np.float32)
    from scipy.linalg import lapack  # late: trained models need none of it

    # LAPACK stores columns first: the transpose is its own view of the memory. Each step keeps
    # to one triangle and leaves zeros in the other.
    triangle, failed = lapack.dpotrf(matrix.T, lower=True, overwrite_a=True)
    if not failed:
        triangle, failed = lapack.dpotri(triangle, lower=True, overwrite_c=True)
    if failed:
        raise ValueError("regularization is too small: X^T X + regularization I is singular")
    inverse = triangle.astype(np.float32)
    inverse += np.tril(inverse, -1).T
    return inverse


def _check_regularization(regularization: float) -> None:
    if not 0 < regularization < np.inf:
        raise ValueError(f"regularization must be positive and finite, got {regularization}")
