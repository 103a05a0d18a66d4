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
        """Indices of external ids, int64 ``[N]``; -1 where an id is unknown."""
        wanted = list(ids)
        found = self._index.get_indexer(pd.Index(wanted, dtype=object))
        if (found < 0).any() and len(self):
            # "17" typed at a prompt means the integer id 17, and 17 the string id "17".
            retyped = [self._retype(value) for value in wanted]
            found = np.where(found < 0, self._index.get_indexer(pd.Index(retyped)), found)
        return found.astype(np.int64)

    def lookup(self, indices: Sequence[int] | np.ndarray) -> list[Any]:
        """External ids of indices, as plain Python values."""
        return self._index.take(np.asarray(indices, dtype=np.int64)).tolist()

    def subset(self, indices: np.ndarray) -> Vocabulary:
        """The vocabulary of a few indices, renumbered in the order given."""
        return Vocabulary(self._index.take(indices))

    def _retype(self, value: Any) -> Any:
        if not pd.api.types.is_integer_dtype(self._index.dtype):
            return str(value)
        try:
            return int(value)
        except (TypeError, ValueError):
            return -1 if -1 not in self._index else None

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, value: Any) -> bool:
        return bool(self.indices([value])[0] >= 0)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self._index.equals(other._index)

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return f"Vocabulary({len(self)} ids)"


def _as_ids(column: Iterable[Any]) -> np.ndarray:
    """Integers as int64, everything else as strings; missing ids are refused."""
    values = pd.Series(
        column if isinstance(column, (pd.Series, pd.Index, np.ndarray)) else list(column)
    )
    if values.isna().any():
        row = int(np.flatnonzero(values.isna())[0])
        raise ValueError(f"row {row}: an id is missing; every row needs a user and an item id")
    if len(values) == 0 or pd.api.types.is_integer_dtype(values.dtype):
        return values.to_numpy(dtype=np.int64 if len(values) else object)
    if pd.api.types.is_float_dtype(values.dtype) and (values == values.round()).all():
        return values.to_numpy().astype(np.int64)
    return values.astype(str).to_numpy(dtype=object)
