"""External ids of any type <-> indices from 0."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

__all__ = ["Vocabulary"]


class Vocabulary:
    """A two-way map between external ids and indices ``0 .. len - 1``.

    Ids are strings or integers; a column that mixes the two is kept as strings. The index of an
    id is its place in ``ids``.

    Args:
        ids: The distinct external ids, in index order.

    Raises:
        ValueError: If an id occurs twice or is missing (None or NaN).
    """

    def __init__(self, ids: Iterable[Any]) -> None:
        self._index = pd.Index(_as_ids(ids))
        if self._index.has_duplicates:
            twice = self._index[self._index.duplicated()][0]
            raise ValueError(f"id {twice!r} occurs twice; ids must be distinct")

    @classmethod
    def fit(cls, column: Iterable[Any]) -> tuple[Vocabulary, np.ndarray]:
        """Collects the distinct ids of a column in order of first appearance.

        Returns:
            The vocabulary and the column's indices, int64 ``[N]``.
        """
        codes, ids = pd.factorize(_as_ids(column))
        return cls(ids), codes.astype(np.int64)

    @property
    def ids(self) -> list[Any]:
        """The external ids in index order, as plain Python values."""
        return self._index.tolist()

    def indices(self, ids: Iterable[Any]) -> np.ndarray:
        """Indices of external ids, int64 ``[N]``; -1 where an id is unknown or missing.

        "17" typed at a prompt finds the integer id 17, and 17 the string id "17".
        """
        wanted = _as_series(ids)
        present = wanted.notna().to_numpy()
        keys = _as_ids(wanted[present])
        index = self._index
        if (keys.dtype == np.int64) != pd.api.types.is_integer_dtype(index.dtype):
            keys, index = keys.astype(str).astype(object), index.astype(str)
        found = np.full(len(wanted), -1, dtype=np.int64)
        found[present] = index.get_indexer(pd.Index(keys))
        return found

    def lookup(self, indices: Sequence[int] | np.ndarray) -> list[Any]:
        """External ids of indices, as plain Python values.

        Raises:
            IndexError: If an index is not in ``0 .. len - 1``, such as the -1 of an unknown id.
        """
        return self._take(indices).tolist()

    def subset(self, indices: np.ndarray) -> Vocabulary:
        """The vocabulary of a few indices, renumbered in the order given."""
        return Vocabulary(self._take(indices))

    def _take(self, indices: Sequence[int] | np.ndarray) -> pd.Index:
        wanted = np.asarray(indices, dtype=np.int64)
        wrong = (wanted < 0) | (wanted >= len(self))
        if wrong.any():
            raise IndexError(f"there is no id of index {wanted[wrong][0]}, only {len(self)} ids")
        return self._index.take(wanted)

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, value: Any) -> bool:
        return bool(self.indices([value])[0] >= 0)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self._index.equals(other._index)

    def __repr__(self) -> str:
        return f"Vocabulary({len(self)} ids)"


def _as_series(column: Iterable[Any]) -> pd.Series:
    """A column of one type where its values have one, else of Python objects."""
    if not isinstance(column, (pd.Series, pd.Index, np.ndarray)):
        column = np.fromiter(column, dtype=object)
    values = pd.Series(column)
    if isinstance(values.dtype, pd.CategoricalDtype):
        return values.astype(values.cat.categories.dtype)
    return values


def _as_ids(column: Iterable[Any]) -> np.ndarray:
    """Whole numbers as int64, everything else as strings; missing ids are refused."""
    values = _as_series(column).infer_objects()
    missing = values.isna().to_numpy()
    if missing.any():
        raise ValueError(
            f"row {int(missing.argmax())}: an id is missing; every row needs a user and an item id"
        )
    if pd.api.types.is_numeric_dtype(values.dtype) and not pd.api.types.is_bool_dtype(values.dtype):
        numbers = values.to_numpy()
        # Also False for infinity and for what int64 cannot hold.
        if ((numbers >= -(2**63)) & (numbers < 2**63) & (numbers == np.floor(numbers))).all():
            return numbers.astype(np.int64)
    return values.astype(str).to_numpy(dtype=object)
