"""Items of a table: their titles, their features, and cold items, which have no event."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from emorec.data.features import EVERY, ItemFeatures, chosen_columns, features_of
from emorec.data.files import DataError
from emorec.data.id_files import id_column
from emorec.data.titles import Titles, read_titles, table_of_items
from emorec.data.vocabulary import Vocabulary
from emorec.suggestions import suggestion
from emorec.texts import count, plain, shortened

__all__ = ["Items", "read_items", "require_items"]


@dataclass(frozen=True, eq=False)
class Items:
    """What is known of items beside their events.

    Attributes:
        titles: Titles of the items, cold ones included; None if there are none.
        features: Features of the items, cold ones included; None if there are none.
    """

    titles: Titles | None = None
    features: ItemFeatures | None = None

    def of_log(self, items: Vocabulary) -> Items:
        """The same for another log; with features, items that it lacks become cold items."""
        every, features = items, None
        if self.features is not None:
            known = self.features.items
            others = np.flatnonzero(items.indices(known.ids) < 0)
            every = Vocabulary([*items.ids, *known.lookup(others)])
            place = known.indices(every.ids)
            rows = np.flatnonzero(place >= 0)
            chosen = sparse.csr_matrix(
                (np.ones(len(rows), np.float32), (rows, place[rows])), (len(every), len(known))
            )
            features = ItemFeatures((chosen @ self.features.matrix).tocsr(), every, len(items))
        titles = None
        if self.titles is not None:
            titles = Titles(self.titles.of(every.ids), every)
        return Items(titles, features)


def read_items(
    source: Any,
    items: Vocabulary,
    *,
    item: str = "item_id",
    title: str = "title",
    encoding: str = "utf-8",
    decimal: str = ".",
    features: str = EVERY,
) -> tuple[Items, list[str]]:
    """Reads titles and features of items.

    Items that are not in the log follow those of the log in the vocabulary, in the order of the
    table: cold items. Without features there are none.

    Args:
        source: A csv, JSON lines or parquet file, a DataFrame of any library, or a `Table`; one row
            per item.
        items: The items of the log.
        item: Column of item ids.
        title: Column of titles; "": there are no titles.
        encoding: Encoding of text files.
        decimal: What separates decimals in a csv file.
        features: Columns of features separated by commas; "*": all but the ids; "": none.

    Returns:
        Titles and features, and notes: on items without a title, columns that cannot be used, and
        cold items.

    Raises:
        DataError: As `read_titles`, or if ``features`` names a column that there is not, or columns
            of which none can be used.
        TypeError: If the source is something else.
    """
    text = tuple(name for name in (item, title) if name)
    table = table_of_items(source, text, None if features else text, encoding, decimal)
    if not features:
        if not title:
            return Items(), []
        found, note = read_titles(table, items, item=item, title=title)
        return Items(found), [note] if note else []
    if item not in table.names:
        raise DataError(
            f"{table.source}: there is no column {item!r} ({suggestion(item, table.names)}); the "
            f"items need a column of ids named as in the log (data.item_column, {item!r}): rename "
            "it, or give --set data.item_column=NAME"
        )
    columns = chosen_columns(table, features, item)
    ids = id_column(table, item, "item id")
    known = items.indices(ids)
    if not (known >= 0).any():
        raise DataError(
            f"{table.source}, column {item!r}: no id is one of the log, such as "
            f"{shortened(ids.iloc[0])!r}; give the ids of the log, such as {items.ids[0]!r}"
        )
    others = list(dict.fromkeys(_like(items, ids[known < 0])))
    every = Vocabulary([*items.ids, *others])
    place = every.indices(ids)
    repeated = pd.Series(place).duplicated().to_numpy()
    place[repeated] = -1
    titles: Titles | None = None
    note = ""
    if title:
        titles, note = read_titles(table, every, item=item, title=title)
    notes = [note] if note else []
    matrix, unused = features_of(table, columns, place, len(every))
    if unused:
        reasons = f"{table.source}: as a feature of items, column {'; column '.join(unused)}"
        if features != EVERY and len(unused) == len(columns):
            raise DataError(f"{reasons}; name other columns as data.item_features")
        notes.append(f"{reasons}; left out")
    if not matrix.nnz:
        return Items(titles), notes
    if repeated.any():
        number = int(repeated.sum())
        repeat = "repeats an item; its" if number == 1 else "repeat items; their"
        notes.append(
            f"{table.source}: {count(number, 'row')} {repeat} features are those of the first"
        )
    if others:
        are = "is not in the log and is a cold item" if len(others) == 1 else (
            "are not in the log and are cold items"
        )  # fmt: skip
        notes.append(
            f"{table.source}: {count(len(others), 'item')} {are}, such as {plain(others[0])!r}; "
            "lists hold them if asked to (cold=True, --cold)"
        )
    return Items(titles, ItemFeatures(matrix, every, len(items))), notes


def require_items(features: str) -> None:
    """Checks that no columns are named where there is no table of items.

    Raises:
        DataError: If the setting ``data.item_features`` names columns.
    """
    if features not in ("", EVERY):
        raise DataError(
            f"data.item_features is {features!r}, but there is no table of items; give it as "
            "data.items (--items)"
        )


def _like(items: Vocabulary, ids: pd.Series) -> list[Any]:
    """New ids, as numbers where all ids of the log are numbers and these are such as text."""
    found = [plain(each) for each in ids]
    if not all(isinstance(each, int) for each in items.ids):
        return found
    return [
        int(each) if isinstance(each, str) and each.isdecimal() and str(int(each)) == each else each
        for each in found
    ]
