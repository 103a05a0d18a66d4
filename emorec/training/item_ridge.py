"""Ridge regression from the features of items to what is known of items."""

from __future__ import annotations

from functools import partial

import numpy as np
from scipy import sparse

__all__ = ["PENALTY", "ItemRidge"]

PENALTY = 10.0
"""Of the squared coefficients, where the items' weights have a mean of 1."""


class ItemRidge:
    """Ridge regression from items' features to what is known of items.

    Args:
        features: Of the known items, CSR ``[I, F]``.
        weight: Of each known item, at least 0 and not all 0, ``[I]``.
        penalty: Of the squared coefficients, where the weights have a mean of 1.
    """

    def __init__(
        self, features: sparse.csr_matrix, weight: np.ndarray, penalty: float = PENALTY
    ) -> None:
        from scipy.linalg import cho_factor, cho_solve  # late: a saved model lists items without it

        share = weight / weight.sum()  # [I]
        used = np.unique(features.indices)
        self._known = sparse.csr_matrix(features[:, used], dtype=np.float64)
        self._used, self._share, self._mean = used, share, share @ self._known
        self._weighted = sparse.csr_matrix(sparse.diags(len(share) * share) @ self._known)
        gram = (self._known.T @ self._weighted).toarray()
        gram -= len(share) * np.outer(self._mean, self._mean)
        gram[np.diag_indices_from(gram)] += penalty
        self._solve = partial(cho_solve, cho_factor(gram)) if len(used) else None

    def predict(self, features: sparse.csr_matrix, values: np.ndarray) -> np.ndarray:
        """Predicts ``[C, D]`` for items with features ``[C, F]`` from ``[I, D]`` of the known."""
        mean = self.mean(values)
        if self._solve is None:
            return np.tile(mean, (features.shape[0], 1))
        coefficients = self._solve(self._weighted.T @ (values - mean))
        return features[:, self._used] @ coefficients + (mean - self._mean @ coefficients)

    def mean(self, values: np.ndarray) -> np.ndarray:
        """The weighted mean of ``[I, D]`` over items, ``[D]``."""
        return self._share @ values

    def weights(self, features: sparse.csr_matrix) -> np.ndarray:
        """The weights ``W`` ``[C, I]`` of the known items: ``predict(features, Y)`` is ``W Y``.

        Each row sums to 1. Weights may be negative.
        """
        if self._solve is None:
            return np.tile(self._share, (features.shape[0], 1))
        centred = features[:, self._used].toarray() - self._mean
        dual = self._solve(centred.T).T  # [C, F]
        found = (self._weighted @ dual.T).T
        return found + (1 - len(self._share) * (dual @ self._mean))[:, None] * self._share

    def stretched(
        self, features: sparse.csr_matrix, values: np.ndarray, stretch: float
    ) -> np.ndarray:
        """Predicts like `predict`, with ``stretch`` times the distance from the mean."""
        mean = self.mean(values)
        return mean + stretch * (self.predict(features, values) - mean)
