"""Titles of items: read from a table, and shown beside ids."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from emorec.data.files import DataError
from emorec.data.id_files import id_column
from emorec.data.table_files import read_table
from emorec.data.tables import Table, as_frame
from emorec.data.vocabulary import Vocabulary
from emorec.suggestions import suggestion
from emorec.texts import count, plain, shortened

__all__ = ["Titles", "read_titles", "table_of_items"]


@dataclass(frozen=True, eq=False)
class Titles:
    """Titles of the items of a vocabulary.

    Attributes:
        texts: Title of each item by index, None where it has none, object ``[I]``.
        items: The items.
    """

    texts: np.ndarray
    items: Vocabulary

    def of(self, ids: Iterable[Any]) -> np.ndarray:
        """Titles of items by their own ids, object ``[N]``; None where there is none."""
        index = self.items.indices(ids)
        found = np.full(len(index), None, dtype=object)
        found[index >= 0] = self.texts[index[index >= 0]]
        return found

    def add_to(self, frame: pd.DataFrame, item: str = "item", title: str = "title") -> pd.DataFrame:
        """Adds a column of titles after one of item ids; returns a new frame."""
        frame = frame.copy(deep=False)
        texts = pd.Series(self.of(frame[item]), frame.index, dtype=object)
        frame.insert(list(frame.columns).index(item) + 1, title, texts)
        return frame

    def as_dict(self) -> dict[Any, str]:
        """Title by item id, of the items that have one."""
        pairs = zip(self.items.ids, self.texts, strict=True)
        return {item: text for item, text in pairs if text is not None}


def read_titles(
    source: Any,
    items: Vocabulary,
    *,
    item: str = "item_id",
    title: str = "title",
    encoding: str = "utf-8",
) -> tuple[Titles, str]:
    """Reads the titles of items.

    Args:
        source: A csv, JSON lines or parquet file, a DataFrame of any library, or a `Table`; one row
            per item.
        items: The items of the log.
        item: Column of item ids.
        title: Column of titles; an empty one is missing.
        encoding: Encoding of text files.

    Returns:
        The titles, and a note on items without a title and titles of other items, which is empty if
        there are none.

    Raises:
        DataError: If the source cannot be read, lacks a column or an id, if an id is neither text
            nor a whole number, a title is not text, an item has two different titles, no id is one
            of the log, or none of these has a title.
        TypeError: If the source is something else.
    """
    table = table_of_items(source, (item, title), (item, title), encoding)
    for name, setting in ((item, "data.item_column"), (title, "data.title_column")):
        if name not in table.names:
            raise DataError(
                f"{table.source}: there is no column {name!r} ({suggestion(name, table.names)}); "
                f"the items need a column of ids named as in the log (data.item_column, {item!r}) "
                f"and one of titles (data.title_column, {title!r}): rename it, or give "
                f"--set {setting}=NAME"
                + (", or leave NAME empty if there are no titles" if name == title else "")
            )
    ids = id_column(table, item, "item id")
    column = table.frame[title]
    is_text = column.map(lambda value: isinstance(value, str)).to_numpy(bool)
    table.refuse(~is_text & column.notna().to_numpy(), title, "is not text; write titles as text")
    texts = column.where(is_text, "").to_numpy(object)
    _refuse_broken(table, title, texts)
    has_title = np.array([bool(text.strip()) for text in texts], dtype=bool)

    index = items.indices(ids)
    if not (index >= 0).any():
        raise DataError(
            f"{table.source}, column {item!r}: no id is one of the log, such as "
            f"{shortened(ids.iloc[0])!r}; give the ids of the log, such as {items.ids[0]!r}"
        )
    found = np.full(len(items), None, dtype=object)
    rows = np.flatnonzero((index >= 0) & has_title)
    found[index[rows][::-1]] = texts[rows][::-1]  # the first of several stays
    if not len(rows):
        raise DataError(
            f"{table.source}, column {title!r}: is empty for every item of the log; give the "
            "column of titles as data.title_column"
        )
    is_other = np.zeros(len(texts), dtype=bool)
    is_other[rows] = found[index[rows]] != texts[rows]
    table.refuse(is_other, item, "has another title in a row above; give each item one title")
    return Titles(found, items), _note(table.source, found, items, ids[has_title & (index < 0)])


def table_of_items(
    source: Any,
    text_columns: tuple[str, ...],
    columns: tuple[str, ...] | None,
    encoding: str,
    decimal: str = ".",
) -> Table:
    """A table of items from a file, a DataFrame or a `Table`; see `read_titles`."""
    if isinstance(source, Table):
        return source
    frame = as_frame(source)
    if frame is not None:
        if not len(frame):
            raise DataError("the DataFrame of items has no rows; one row per item is expected")
        return Table.of_frame(frame, "the DataFrame of items")
    if not isinstance(source, str | Path):
        kind = type(source)
        raise TypeError(
            "items must be a DataFrame with a row per item, or the name of a file; "
            f"got {kind.__module__}.{kind.__qualname__}"
        )
    return read_table(
        source, text_columns=text_columns, columns=columns, encoding=encoding, decimal=decimal
    )


def _refuse_broken(table: Table, title: str, texts: np.ndarray) -> None:
    """Refuses titles with a lone surrogate, which cannot be encoded as UTF-8."""
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        broken = [any("\ud800" <= each <= "\udfff" for each in text) for text in texts]
        table.refuse(np.array(broken), title, "is not valid Unicode (it holds a lone surrogate)")


def _note(source: str, texts: np.ndarray, items: Vocabulary, others: pd.Series) -> str:
    reasons = []
    without = np.flatnonzero(texts == None)  # noqa: E711 (of each element)
    if len(without):
        have = "has" if len(without) == 1 else "have"
        first = items.lookup(without[:1])[0]
        reasons.append(
            f"{len(without):,} of {count(len(items), 'item')} {have} no title, such as {first!r}"
        )
    if len(others):
        of = "is of an item that is" if len(others) == 1 else "are of items that are"
        first = plain(others.iloc[0])
        reasons.append(f"{count(len(others), 'title')} {of} not in the log, such as {first!r}")
    return f"{source}: {'; '.join(reasons)}" if reasons else ""
