"""Files of ids: users, items, and pairs of both."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from emorec.data.files import DataError, open_bytes, readable
from emorec.data.readers import fit_ids
from emorec.data.table_files import read_table
from emorec.data.tables import Table

__all__ = ["IdFiles", "id_column"]

_TABLES = {".jsonl", ".json", ".ndjson", ".parquet", ".pq"}


@dataclass(frozen=True)
class IdFiles:
    """Reads files of ids: lines of text, or tables with the columns of a log.

    A text file has one id per line; blank lines, and a first line that is the column's name, are
    skipped. If its first line names the column among others, the file is a csv table. Files whose
    names end in .jsonl or .parquet are tables, too. Ids of text files are text, and find whole
    numbers, see `emorec.data.vocabulary.Vocabulary.indices`.

    Attributes:
        user_column: Column of users.
        item_column: Column of items.
        encoding: Encoding of text files.
    """

    user_column: str
    item_column: str
    encoding: str = "utf-8"

    def users(self, path: Path) -> list[Any]:
        """The users of a file.

        Raises:
            DataError: If the file cannot be read or has no id, or a value is none.
        """
        return self._column(path, self.user_column)

    def items(self, path: Path) -> list[Any] | dict[Any, list[Any]]:
        """The items of a file, for all users; by user, if it has a column of users.

        Raises:
            DataError: If the file cannot be read or has no id, or a value is none.
        """
        if self.user_column not in self._names(path):
            return self._column(path, self.item_column)
        return self.pairs(path).groupby("user", sort=False)["item"].agg(list).to_dict()

    def pairs(self, path: Path) -> pd.DataFrame:
        """The rows of a table of users and items: columns ``user`` and ``item``.

        Raises:
            DataError: If the file cannot be read, has no row, lacks a column or an id, or if a
                value is none.
        """
        columns = [self.user_column, self.item_column]
        table = read_table(
            path, text_columns=columns, columns=columns, encoding=self.encoding, settable=False
        )
        for name in columns:
            if name not in table.names:
                raise DataError(
                    f"{path}: there is no column {name!r}; the first line must name the columns "
                    f"{self.user_column} and {self.item_column}, as in the log"
                )
        user, item = (id_column(table, name, f"{name} id") for name in columns)
        return pd.DataFrame({"user": user, "item": item})

    def _column(self, path: Path, name: str) -> list[Any]:
        names = self._names(path)
        if len(names) > 1 and name in names:
            table = read_table(
                path, text_columns=[name], columns=[name], encoding=self.encoding, settable=False
            )
            return id_column(table, name, "id").tolist()
        if _is_table(path):
            raise DataError(f"{path}: there is no column {name!r}; name the column of ids so")
        lines = [line for line in self._lines(path) if line.strip()]
        ids = lines[lines[:1] == [name] :]
        if not ids:
            raise DataError(f"{path} has no id; one per line is expected")
        return ids

    def _names(self, path: Path) -> list[str]:
        """The names of columns, if the file is a table; else the parts of its first line."""
        if _is_table(path):
            names = read_table(path, encoding=self.encoding, settable=False).names
            return [*names, ""]  # at least two
        first = next((line for line in self._lines(path) if line.strip()), "")
        return [cell.strip('" ') for cell in re.split(r"[\t,;|]|::", first)]

    def _lines(self, path: Path) -> list[str]:
        encoding = "utf-8-sig" if self.encoding.lower() in ("utf-8", "utf8") else self.encoding
        with (
            readable(str(path), encoding, settable=False),
            open_bytes(path, None) as stream,
            io.TextIOWrapper(stream, encoding=encoding) as text,
        ):
            return [line.rstrip("\r\n") for line in text]


def id_column(table: Table, name: str, meaning: str) -> pd.Series:
    """A column whose values are all ids, text or whole numbers, as a log's must be.

    Raises:
        DataError: If the column is absent, or a value is missing or no id; names the row.
    """
    ids = table.full_column(name, meaning)
    fit_ids(table, name, ids, np.arange(len(ids)))
    return ids


def _is_table(path: Path) -> bool:
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    return bool(suffixes) and suffixes[-1] in _TABLES
