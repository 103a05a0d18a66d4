"""Features of items: columns of a table as one sparse matrix of hashed features."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse

from emorec.data.files import DataError
from emorec.data.tables import Table
from emorec.data.vocabulary import Vocabulary
from emorec.suggestions import suggestion
from emorec.texts import shortened

__all__ = ["EVERY", "NUM_FEATURES", "ItemFeatures", "chosen_columns", "features_of"]

EVERY = "*"
"""As the setting ``data.item_features``: all columns but the ids."""

NUM_FEATURES = 2**12
"""Columns of the matrix."""

_BINS = 10  # of numbers
_LEAST_USES = 2.0  # rows per distinct value, on average: fewer, and values do not describe groups
_LEAST_SEPARATED = 0.1  # of the values, that hold a separator of tags
_WORDS_OF_A_TAG = 4  # at most, where tags are separated by commas
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, eq=False)
class ItemFeatures:
    """Features of the items of a log, and of others that have no event: cold items.

    Attributes:
        matrix: Hashed features, float32 CSR ``[I + C, 4096]``; rows have length 1, or 0 for items
            without a feature.
        items: The ``I`` items of the log, then the ``C`` cold ones in the order of the table.
        num_warm: ``I``.
    """

    matrix: sparse.csr_matrix
    items: Vocabulary
    num_warm: int

    @property
    def num_cold(self) -> int:
        """Number of cold items, ``C``."""
        return len(self.items) - self.num_warm


def chosen_columns(table: Table, names: str, item: str) -> list[str]:
    """The columns that the setting ``data.item_features`` names.

    Args:
        table: The table of items.
        names: Names separated by commas, `EVERY`, or "" for none.
        item: Column of item ids.

    Raises:
        DataError: If there is no such column, or it is that of the ids.
    """
    if names == EVERY:
        return [name for name in table.names if name != item]
    chosen = list(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    others = [name for name in table.names if name != item]
    for name in chosen:
        if name == item:
            raise DataError(
                f"{table.source}: data.item_features names {name!r}, the column of item ids, which "
                f"describes no item; name other columns ({suggestion('', others)})"
            )
        if name not in table.names:
            raise DataError(
                f"{table.source}: there is no column {name!r} (data.item_features; "
                f"{suggestion(name, others)})"
            )
    return chosen


def features_of(
    table: Table, columns: Sequence[str], place: np.ndarray, num_items: int
) -> tuple[sparse.csr_matrix, list[str]]:
    """Hashes columns of a table of items.

    A column is one of these, and each of its values one token or several:

    * a list per item, or text with ``|`` in a tenth of its values: tags, split at ``|``;
    * text with a comma in a tenth of its values, whose parts have at most four words and occur
      twice or more on average: tags, split at commas;
    * other text whose values occur twice or more on average: categories;
    * other text: words, without case;
    * true and false, and numbers or dates of at most ten distinct values: categories;
    * other numbers and dates: their decile.

    With ``t`` tokens in the column, of which one is in ``n_f`` of ``N`` items,

        x_f = log(1 + N / n_f) / sqrt(t)        then each row is scaled to length 1

    and the column of a token in the matrix is the BLAKE2 hash of the column's name and the token,
    modulo 4096, on every machine the same. Tokens that share a column are added.

    Args:
        table: The table.
        columns: The columns to use, which it has.
        place: Row of the matrix of each row of the table, int64 ``[N]``; -1: leave it out.
        num_items: Rows of the matrix.

    Returns:
        The matrix, float32 CSR ``[num_items, 4096]``, and a reason for each column that cannot be
        used.
    """
    rows = np.flatnonzero(place >= 0)
    row_parts, cell_parts, value_parts, unused = [], [], [], []
    for name in columns:
        values = table.frame[name].iloc[rows].reset_index(drop=True)
        tokens = _tokens(values)
        if isinstance(tokens, str):
            unused.append(f"{name!r} {tokens}")
            continue
        item = place[rows[tokens.index]]
        pairs = pd.DataFrame({"item": item, "token": tokens.to_numpy()}).drop_duplicates()
        code, distinct = pd.factorize(pairs["token"])
        number = np.bincount(code)
        of_item = pairs["item"].to_numpy()
        size = np.bincount(of_item, minlength=num_items)[of_item]
        cell = np.array([_hash(name, token) for token in distinct], dtype=np.int64)
        row_parts.append(of_item)
        cell_parts.append(cell[code])
        value_parts.append(np.log1p(len(rows) / number[code]) / np.sqrt(size))
    shape = num_items, NUM_FEATURES
    if not row_parts:
        return sparse.csr_matrix(shape, dtype=np.float32), unused
    entries = np.concatenate(value_parts), (np.concatenate(row_parts), np.concatenate(cell_parts))
    matrix = sparse.csr_matrix(entries, shape=shape)
    length = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    matrix = sparse.diags(1 / np.where(length > 0, length, 1)) @ matrix
    return sparse.csr_matrix(matrix, dtype=np.float32), unused


def _hash(column: str, token: str) -> int:
    digest = hashlib.blake2b(f"{column}\x1f{token}".encode(errors="replace"), digest_size=8)
    return int.from_bytes(digest.digest(), "little") % NUM_FEATURES


def _tokens(values: pd.Series) -> pd.Series | str:
    """Tokens of a column, indexed by row; or why it has none."""
    values = values.dropna()
    if not len(values):
        return "is empty"
    if pd.api.types.is_datetime64_any_dtype(values.dtype):
        values = values.astype("int64")
    if isinstance(values.dtype, pd.CategoricalDtype):
        values = values.astype(values.cat.categories.dtype)
    if pd.api.types.is_bool_dtype(values.dtype):
        tokens = values.astype(str)
    elif pd.api.types.is_numeric_dtype(values.dtype):
        tokens = _of_numbers(values)
    else:
        is_list = values.map(lambda value: isinstance(value, list | tuple | np.ndarray))
        if is_list.all():
            tokens = values.map(list).explode().dropna().astype(str)
        elif values.map(lambda value: isinstance(value, str)).all():
            tokens = _of_text(values)
        elif values.map(lambda value: isinstance(value, bool | int | float)).all():
            tokens = _of_numbers(pd.to_numeric(values.astype(str), errors="coerce").dropna())
        else:
            wrong = values[~is_list].iloc[0] if (~is_list).any() else values.iloc[0]
            return f"holds {type(wrong).__name__} {shortened(wrong)!r}, not text, numbers or lists"
    tokens = tokens.str.strip()
    tokens = tokens[tokens != ""]
    if not len(tokens):
        return "is empty"
    if tokens.nunique() == 1 and tokens.index.nunique() == len(values):
        return f"is {shortened(tokens.iloc[0])!r} for all items"
    return tokens


def _of_numbers(values: pd.Series) -> pd.Series:
    values = values[np.isfinite(values.to_numpy(np.float64))]
    if values.nunique() <= _BINS:
        return values.map(lambda value: format(value, ".12g"))
    edges = np.unique(np.quantile(values, np.arange(1, _BINS) / _BINS))
    return pd.Series(np.searchsorted(edges, values, side="right"), values.index).astype(str)


def _of_text(values: pd.Series) -> pd.Series:
    if values.str.contains("|", regex=False).mean() >= _LEAST_SEPARATED:
        return values.str.split("|", regex=False).explode()
    if values.str.contains(",", regex=False).mean() >= _LEAST_SEPARATED:
        parts = values.str.split(",", regex=False).explode().str.strip()
        parts = parts[parts != ""]
        most = parts.str.count(r"\s+").max() + 1
        if most <= _WORDS_OF_A_TAG and len(parts) >= _LEAST_USES * parts.nunique():
            return parts
    if len(values) >= _LEAST_USES * values.nunique():
        return values
    return values.str.lower().str.findall(_WORD).explode().dropna()
