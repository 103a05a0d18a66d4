"""External ids of any type <-> indices from 0."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from emorec.texts import plain, shortened

__all__ = ["IdError", "Vocabulary"]

_LARGEST_EXACT_FLOAT = 2**53
_NEITHER = "the id {!r} is neither text nor a whole number; convert it to text"


class IdError(ValueError):
    """An id that cannot be stored unchanged.

    Attributes:
        row: Its row in the column, from 0.
        reason: What is wrong with it.
    """

    def __init__(self, row: int, reason: str) -> None:
        super().__init__(f"row {row}: {reason}")
        self.row, self.reason = row, reason


class Vocabulary:
    """A two-way map between external ids and indices ``0 .. len - 1``.

    Ids are text or whole numbers and are returned unchanged; a column may mix the two. The index of
    an id is its position in ``ids``.

    Args:
        ids: The distinct external ids, in index order. Floats that are whole numbers count as such.

    Raises:
        ValueError: If an id occurs twice, or as a number and as text.
        IdError: If an id is missing, empty, or neither text nor a whole number.
    """

    def __init__(self, ids: Iterable[Any]) -> None:
        self._index = pd.Index(_as_ids(ids))
        if self._keys.has_duplicates:
            one, other = self._index[self._keys == self._keys[self._keys.duplicated()][0]][:2]
            if one == other:
                raise ValueError(f"id {one!r} occurs twice; ids must be distinct")
            raise ValueError(
                f"id {one!r} occurs as {other!r} too; a column must not hold the same id as a "
                "number and as text"
            )

    @classmethod
    def fit(cls, column: Iterable[Any]) -> tuple[Vocabulary, np.ndarray]:
        """Collects the distinct ids of a column in order of first appearance.

        Returns:
            The vocabulary and the column's indices, int64 ``[N]``.
        """
        values = _as_series(column)
        if not isinstance(values.dtype, pd.StringDtype):
            codes, ids = pd.factorize(_as_ids(values))
            return cls(ids), codes.astype(np.int64, copy=False)
        # As text, before each id becomes an object of Python.
        codes, texts = pd.factorize(values, use_na_sentinel=False)
        try:
            return cls(texts), codes.astype(np.int64, copy=False)
        except IdError as error:
            raise IdError(int((codes == error.row).argmax()), error.reason) from None

    @cached_property
    def _keys(self) -> pd.Index:
        """The keys of lookups: the ids themselves if all are numbers, else the text of each."""
        return self._index if self._index.dtype == np.int64 else self._index.astype(str)

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
        keys, index = _as_keys(wanted[present]), self._keys
        if keys.dtype != index.dtype:
            keys, index = keys.astype(str), index.astype(str)
        found = np.full(len(wanted), -1, dtype=np.int64)
        found[present] = index.get_indexer(keys)
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
            raise IndexError(f"no id has index {wanted[wrong][0]}; there are {len(self)} ids")
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
    try:
        values = pd.Series(column)
    except UnicodeEncodeError:
        raise _broken(list(column)) from None
    if isinstance(values.dtype, pd.CategoricalDtype):
        return values.astype(values.cat.categories.dtype)
    return values


def _inferred(values: pd.Series) -> pd.Series:
    """The same with the type of its values, where they have one; without missing ones."""
    try:
        return values.infer_objects()
    except UnicodeEncodeError:
        raise _broken(values.tolist()) from None


def _as_keys(values: pd.Series) -> pd.Index:
    """Ids to look up: whole numbers as int64, everything else as text."""
    values = _inferred(values)
    if _is_numeric(values):
        numbers = values.to_numpy()
        # Also False for infinity and for what int64 cannot hold.
        if ((numbers >= -(2**63)) & (numbers < 2**63) & (numbers == np.floor(numbers))).all():
            return pd.Index(numbers.astype(np.int64))
        values = pd.Series(map(_plain, values), dtype=object)  # 2.0 beside 1.5 is the id 2
    return pd.Index(values.astype(str).to_numpy(dtype=object)).astype(str)


def _as_ids(column: Iterable[Any]) -> np.ndarray:
    """A column of ids: int64 if all are whole numbers, else Python objects, each text or int."""
    values = _inferred(_as_series(column))
    _refuse(values.isna().to_numpy(), "an id is missing; every row needs a user and an item id")
    if _is_numeric(values):
        numbers = values.to_numpy()
        if np.issubdtype(numbers.dtype, np.floating):
            _refuse_floats(numbers, values)
        if not len(numbers) or numbers.max() < 2**63:
            return numbers.astype(np.int64)
        values = values.astype(object)
    if not _is_text(values):
        values = pd.Series([_plain(value) for value in values], dtype=object)
        kinds = np.fromiter((type(value) in (str, int) for value in values), bool, len(values))
        _refuse(
            ~kinds, "the id {!r} is neither text nor a whole number; convert it to text", values
        )
        if len(values) and all(type(v) is int and -(2**63) <= v < 2**63 for v in values):
            return values.to_numpy(dtype=np.int64)
    ids = values.to_numpy(dtype=object)
    _refuse(ids == "", "an id is empty; every row needs a user and an item id")
    try:
        "".join(pd.unique(values.astype(str))).encode()
    except UnicodeEncodeError:
        raise _broken(ids.tolist()) from None
    return ids


def _plain(value: Any) -> Any:
    """An id as a plain Python value, if it is a number of NumPy's or a whole float."""
    value = plain(value)
    is_whole = isinstance(value, float) and abs(value) < _LARGEST_EXACT_FLOAT and value % 1 == 0
    return int(value) if is_whole else value


def _is_numeric(values: pd.Series) -> bool:
    dtype = values.dtype
    return pd.api.types.is_numeric_dtype(dtype) and not pd.api.types.is_bool_dtype(dtype)


def _is_text(values: pd.Series) -> bool:
    return isinstance(values.dtype, pd.StringDtype) or (
        values.dtype == object and pd.api.types.infer_dtype(values, skipna=False) == "string"
    )


def _broken(ids: list[Any]) -> IdError:
    """The error about the first id with a lone surrogate, which cannot be encoded as UTF-8."""
    row = next(
        row
        for row, value in enumerate(ids)
        if isinstance(value, str) and any("\ud800" <= each <= "\udfff" for each in value)
    )
    return IdError(row, f"the id {ids[row]!r} is not valid Unicode (it holds a lone surrogate)")


def _refuse_floats(numbers: np.ndarray, values: pd.Series) -> None:
    wrong = ~(np.isfinite(numbers) & (numbers == np.floor(numbers)))
    _refuse(wrong, _NEITHER, values)
    _refuse(
        np.abs(numbers) >= _LARGEST_EXACT_FLOAT,
        "the id {!r} is too large to be exact as a float; give ids as whole numbers or text",
        values,
    )


def _refuse(wrong: np.ndarray, reason: str, values: pd.Series | None = None) -> None:
    if wrong.any():
        row = int(wrong.argmax())
        value = None if values is None else shortened(values.iloc[row])
        raise IdError(row, reason.format(value))
