"""Similarities between items, counted in a log."""

from __future__ import annotations

from scipy import sparse

from emorec.baselines.item_models import RidgeKNN, largest_of_rows
from emorec.data.interactions import Interactions

__all__ = ["similar_items"]


def similar_items(log: Interactions, num_similar: int, progress: bool = False) -> sparse.csr_matrix:
    """Counts how similar items are: cosine similarity plus regression weights.

        S_ij = cosine_ij / a + W_ij / b

    The cosine measures how many users two items share. The weights ``W`` of
    `emorec.baselines.RidgeKNN` measure what an item adds to the prediction from the others. ``a``
    and ``b`` put both on one scale: they are the means over items of the largest entry of a row.

    Args:
        log: The events to count.
        num_similar: Items kept per item, ``N``, beside itself.
        progress: Whether to show a progress bar.

    Returns:
        CSR ``[I, I]``: row ``i`` holds the at most ``N + 1`` entries of largest size.
    """
    model = RidgeKNN(num_similar).fit(log, progress)
    both = _scaled(model.similarity) + _scaled(model.weights)
    return largest_of_rows(both, num_similar + 1)


def _scaled(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    largest = matrix.max(axis=1).toarray().mean() if matrix.nnz else 0
    return matrix / largest if largest > 0 else matrix
