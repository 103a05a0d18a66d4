"""Neighbours of items and the regressions among them, counted in blocks and bounded memory.

With X the binary matrix of users and items, ``[U, I]``, the gram matrix G = X^T X holds how many
users have both of two items. It is never held as a whole: a block of its rows is counted when it is
needed, and again when it is needed again. Results are exact, however large the catalogue.

A user with n items has n^2 pairs. The time is that of counting the pairs of all users, once for
the neighbours, and at most once for each group of items whose regressions are solved together, see
`neighbour_weights`; then N^2 / 2 look-ups and a solve of N^3 steps for each item. Memory is at most
some 3 GiB, beside the log and the N neighbours of each item.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import sparse
from tqdm import tqdm

from emorec.threads import one_blas_thread

__all__ = ["REGULARIZATION", "largest_of_rows", "nearest_items", "neighbour_weights"]

REGULARIZATION = 500.0
"""Usual lambda of `neighbour_weights`, in squared interactions."""

_ENTRIES = 2**20  # of the gram matrix at a time; larger blocks take longer, as they leave the cache
_CELLS = 2**19  # of an array of padded rows
_BUFFER_BYTES = 2**28  # gram rows as dense arrays
_GROUP_BYTES = 2**31  # counts among the neighbours of a group of items
_GROUP_ITEMS = 200_000
_SOLVES = 128  # regressions at a time


def nearest_items(
    history: sparse.csr_matrix,
    count: int,
    shrink: float = 0.0,
    longest: int = 4096,
    progress: bool = False,
) -> sparse.csr_matrix:
    """Finds the most similar items of each item, itself included.

        similarity(i, j) = G_ij / (sqrt(G_ii G_jj) + shrink)

    Args:
        history: Ones where a user has an item, float32 ``[U, I]``.
        count: Items kept per item.
        shrink: Damps similarities that rest on few users; 0 is the cosine.
        longest: Items compared at a time, at most.
        progress: Whether to show a progress bar.

    Returns:
        Similarities, float32 CSR ``[I, I]``, in each row the largest first.
    """
    by_item = history.T.tocsr()
    norms = np.sqrt(np.diff(by_item.indptr))
    parts = [sparse.csr_matrix((0, history.shape[1]), dtype=np.float32)]
    with tqdm(total=len(norms), desc="similar items", leave=False, disable=not progress) as bar:
        for block in _blocks(np.minimum(_row_pairs(by_item, history), len(norms)), longest):
            common = by_item[block] @ history
            own = np.repeat(norms[block], np.diff(common.indptr))
            values = common.data / (own * norms[common.indices] + shrink)
            similarity = sparse.csr_matrix((values, common.indices, common.indptr), common.shape)
            parts.append(largest_of_rows(similarity, count))
            bar.update(common.shape[0])
    return sparse.vstack(parts, format="csr")


def neighbour_weights(
    history: sparse.csr_matrix,
    near: sparse.csr_matrix,
    regularization: float,
    progress: bool = False,
) -> sparse.csr_matrix:
    """Solves for the weights by which an item's neighbours predict it.

        w_j = (G_NN + regularization I)^-1 G_Nj,  W_ij = w_j(i) for i in N, else 0

    for the neighbours N of item j, itself left out. Items are solved in groups whose counts G_NN
    take at most 2 GiB: with 100 neighbours, some 100,000 items if a count takes 4 bytes, and at
    most 200,000 if all counts are below 65,536. A row of the gram matrix is counted once for each
    group in which the item is a neighbour.

    Args:
        history: Ones where a user has an item, float32 ``[U, I]``.
        near: The neighbours of each item in its row, as `nearest_items` returns them.
        regularization: lambda, in squared interactions.
        progress: Whether to show a progress bar.

    Returns:
        Weights W, float32 CSR ``[I, I]``.
    """
    num_items = history.shape[1]
    item = np.arange(num_items, dtype=near.indices.dtype)
    own = np.flatnonzero(near.indices == np.repeat(item, np.diff(near.indptr)))
    offsets = near.indptr - np.searchsorted(own, near.indptr)
    others = sparse.csr_matrix(
        (np.zeros(offsets[-1], np.float32), np.delete(near.indices, own), offsets), near.shape
    )
    history = history.astype(np.int32)  # whole numbers wrap around in smaller types
    by_item = history.T.tocsr()
    users, pairs = np.diff(by_item.indptr), _row_pairs(by_item, history)
    total = np.count_nonzero(np.diff(offsets))
    with (
        one_blas_thread(),
        tqdm(total=total, desc="their weights", leave=False, disable=not progress) as bar,
    ):
        for items, dtype in _groups(others, users):
            group = _Group(items, others, dtype)
            group.count(by_item, history, pairs)
            group.solve(users, regularization, others.data, bar)
    return others.T.tocsr()


def largest_of_rows(matrix: sparse.csr_matrix, count: int) -> sparse.csr_matrix:
    """The ``count`` entries of largest size in each row, float32, the largest first.

    Of entries of one size, lower columns come first.
    """
    large = _at_least_last(matrix, count)
    large.sort_indices()
    lengths = np.diff(large.indptr)
    offsets = np.concatenate([[0], np.cumsum(np.minimum(lengths, count))])
    places = np.zeros(offsets[-1], dtype=np.int64)
    sizes = np.abs(large.data)
    for rows in _alike(lengths):
        place, exists = _padded(large.indptr, rows)
        order = np.argsort(np.where(exists, -sizes[place], 1), axis=1, kind="stable")[:, :count]
        kept = np.take_along_axis(exists, order, 1)
        target = offsets[rows][:, None] + np.arange(order.shape[1])
        places[target[kept]] = np.take_along_axis(place, order, 1)[kept]
    values = large.data[places].astype(np.float32)
    return sparse.csr_matrix((values, large.indices[places], offsets), shape=matrix.shape)


def _at_least_last(matrix: sparse.csr_matrix, count: int) -> sparse.csr_matrix:
    """The entries of each row that are not smaller than the ``count``-th largest one."""
    # Rounding to float32 keeps the order, except of sizes that become equal, all of which stay
    # here; float32 is parted several times as fast as float64.
    sizes = np.abs(matrix.data).astype(np.float32)
    lengths = np.diff(matrix.indptr)
    least = np.zeros(len(lengths), np.float32)
    for rows in _alike(np.where(lengths > count, lengths, 0)):
        place, exists = _padded(matrix.indptr, rows)
        padded = np.where(exists, sizes[place], np.float32(-1))
        least[rows] = np.partition(padded, -count, axis=1)[:, -count]
    kept = np.flatnonzero(sizes >= np.repeat(least, lengths))
    offsets = np.searchsorted(kept, matrix.indptr)
    return sparse.csr_matrix((matrix.data[kept], matrix.indices[kept], offsets), matrix.shape)


class _Group:
    """Items that are solved together, ``T``, with at most ``S - 1`` neighbours each.

    An item and its neighbours are its circle, ``[T, S]``, the item first. Of each two of a circle
    the count is looked up once: for the one at place ``a``, with the ``H = S // 2`` that follow it,
    around the circle.
    """

    def __init__(self, items: np.ndarray, others: sparse.csr_matrix, dtype: np.dtype) -> None:
        self.items = items
        place, exists = _padded(others.indptr, items)
        self._places, self._exists = place, exists
        nobody = others.shape[1]  # a column without counts
        neighbours = np.where(exists, others.indices[place], nobody)
        self.circle = np.concatenate([items[:, None], neighbours], axis=1).astype(np.int32)
        size = self.circle.shape[1]
        self.counts = np.zeros((len(items), size, size // 2), dtype)

    def count(
        self, by_item: sparse.csr_matrix, history: sparse.csr_matrix, pairs: np.ndarray
    ) -> None:
        """Fills ``counts``, ``[T, S, H]``, given the pairs of each row of the gram matrix."""
        (size, half), num_items = self.counts.shape[1:], by_item.shape[0]
        around = np.concatenate([self.circle, self.circle[:, :half]], axis=1)
        order = np.argsort(pairs, kind="stable")  # so that rows of a block are alike
        rank = np.full(num_items + 1, num_items, np.int32)
        rank[order] = np.arange(num_items)
        flat = rank[self.circle.ravel()]
        places = np.flatnonzero(flat < num_items)
        places = places[np.argsort(flat[places])]
        rows, start, uses = np.unique(flat[places], return_index=True, return_counts=True)
        rows, start = order[rows], np.append(start, len(places))
        pairs = pairs[rows]
        width = num_items + 1
        most = max(1, _BUFFER_BYTES // (width * self.counts.itemsize))
        buffer = np.zeros(min(most, len(rows)) * width, self.counts.dtype)
        for block in _blocks(np.minimum(pairs, num_items) + half * uses, most):
            number = np.arange(len(rows[block])) * width
            # Where few users share the same two items, a sparse product takes twice as long.
            add = _add_pairs if pairs[block].sum() < len(number) * num_items else _add_product
            filled = add(buffer, number, by_item[rows[block]], history)
            place = places[start[block.start] : start[block.stop]]
            first = place // size * around.shape[1] + place % size + 1
            columns = around.ravel()[first[:, None] + np.arange(half)]
            self.counts.reshape(-1, half)[place] = buffer[
                np.repeat(number, uses[block])[:, None] + columns
            ]
            buffer[filled] = 0

    def solve(
        self, users: np.ndarray, regularization: float, weights: np.ndarray, bar: tqdm
    ) -> None:
        """Writes the items' weights to their places, given the users of each item, ``[I]``."""
        size, half = self.counts.shape[1:]
        one, other = np.mgrid[:size, :size]
        ahead = (other - one) % size
        is_ahead = (ahead >= 1) & (ahead <= half)
        cell = np.where(is_ahead, one * half + ahead - 1, other * half + (one - other) % size - 1)
        diagonal = np.append(users, 0)[self.circle] + regularization
        for start in range(0, len(self.items), _SOLVES):
            batch = slice(start, start + _SOLVES)
            exists = self._exists[batch]
            used = 1 + np.count_nonzero(exists.any(axis=0))
            counts = self.counts[batch].reshape(len(exists), -1)
            gram = counts[:, cell[:used, :used]].astype(np.float64)
            gram[:, np.arange(used), np.arange(used)] = diagonal[batch, :used]
            found = np.linalg.solve(gram[:, 1:, 1:], gram[:, 1:, :1])[..., 0]
            exists = exists[:, : used - 1]
            weights[self._places[batch, : used - 1][exists]] = found[exists]
            bar.update(len(exists))


def _add_pairs(
    buffer: np.ndarray, starts: np.ndarray, by_item: sparse.csr_matrix, history: sparse.csr_matrix
) -> np.ndarray:
    """Counts the users that some items, ``[R, U]``, share with all items, ``[U, I]``.

    Counts are modulo the numbers that the buffer can hold.

    Args:
        buffer: Zeros, to which counts are added.
        starts: Where the row of each item starts in it, ``I + 1`` apart.
        by_item: Ones where a user has an item.
        history: Those of all items.

    Returns:
        Where counts were added.
    """
    of_users = history[by_item.indices]
    of_user = np.repeat(starts, np.diff(by_item.indptr))
    cells = np.repeat(of_user, np.diff(of_users.indptr)) + of_users.indices
    np.add.at(buffer, cells, buffer.dtype.type(1))
    return cells


def _add_product(
    buffer: np.ndarray, starts: np.ndarray, by_item: sparse.csr_matrix, history: sparse.csr_matrix
) -> slice:
    """The same as `_add_pairs`, where many users share the same two items."""
    filled = slice(0, len(starts) * (history.shape[1] + 1))
    buffer[filled].reshape(len(starts), -1)[:, :-1] = (by_item @ history).toarray()
    return filled


def _groups(others: sparse.csr_matrix, users: np.ndarray) -> Iterator[tuple[np.ndarray, np.dtype]]:
    """Items with neighbours, in groups, and the type that holds counts among their neighbours.

    A count of two items is at most the number of users of the one with fewer of them, so at most
    the largest number of users of a neighbour.
    """
    size = 1 + np.diff(others.indptr)
    known = size > 1
    most = np.zeros(len(size), users.dtype)
    most[known] = np.maximum.reduceat(users[others.indices], others.indptr[:-1][known])
    bytes_of = np.select([most < 2**8, most < 2**16], [1, 2], 4)
    items = np.lexsort((-size, -bytes_of))
    items = items[size[items] > 1]
    while len(items):
        first = items[0]  # has the largest counts
        widest = np.maximum.accumulate(size[items])
        taken = np.arange(1, len(items) + 1) * widest * (widest // 2) * bytes_of[first]
        fit = max(1, int(np.searchsorted(taken[:_GROUP_ITEMS], _GROUP_BYTES, side="right")))
        yield items[:fit], np.dtype(f"u{bytes_of[first]}")
        items = items[fit:]


def _row_pairs(by_item: sparse.csr_matrix, history: sparse.csr_matrix) -> np.ndarray:
    """Pairs of items that are counted in each row of the gram matrix, int64 ``[I]``."""
    return by_item.astype(np.int64) @ np.diff(history.indptr).astype(np.int64)


def _blocks(entries: np.ndarray, longest: int) -> Iterator[slice]:
    """Rows in blocks of at most `_ENTRIES` entries and ``longest`` rows, or of a single row."""
    ends = np.cumsum(entries)
    start = 0
    while start < len(ends):
        most = _ENTRIES + (ends[start - 1] if start else 0)
        stop = max(start + 1, int(np.searchsorted(ends, most, side="right")))
        stop = min(stop, start + longest)
        yield slice(start, stop)
        start = stop


def _alike(lengths: np.ndarray) -> Iterator[np.ndarray]:
    """Rows that are not empty, in blocks of similar lengths, so that padding costs little."""
    order = np.argsort(lengths, kind="stable")
    ordered = lengths[order]
    start = int(np.searchsorted(ordered, 1))
    while start < len(order):
        longest = 2 * int(ordered[start]) + 16
        stop = int(np.searchsorted(ordered, longest, side="right"))
        stop = min(stop, start + max(1, _CELLS // longest))
        yield order[start:stop]
        start = stop


def _padded(offsets: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places of the entries of some rows, ``[R, L]``, and whether there is one; 0 if not."""
    first, lengths = offsets[rows].astype(np.int64), offsets[rows + 1] - offsets[rows]
    column = np.arange(lengths.max(initial=0))
    exists = column < lengths[:, None]
    return np.where(exists, first[:, None] + column, 0), exists
