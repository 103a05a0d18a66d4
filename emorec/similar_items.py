"""What an item says for other items, counted from a log: what `emorec.nn.neighbours` remembers."""

from __future__ import annotations

from scipy import sparse

from emorec.data.interactions import Interactions
from emorec.item_models import RidgeKNN, largest_of_rows

__all__ = ["similar_items"]


def similar_items(
    log: Interactions, num_neighbours: int, progress: bool = False
) -> sparse.csr_matrix:
    """Similarity and regression weights, added.

        S_ij = cosine_ij / a + W_ij / b

    The cosine says which items the same users had, whatever else explains that; the weights ``W``
    of `emorec.item_models.RidgeKNN` what an item adds to what the others say. ``a`` and ``b`` are
    the means over items of the largest entry of their row: ``a`` that of an item's cosine with
    itself, 1 where every item has events, and ``b`` that of the largest weight.

    Args:
        log: What to count.
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
