"""Tables that can locate each of their rows in the file or the DataFrame they are from."""

from __future__ import annotations

import importlib
import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from emorec.data.files import DataError
from emorec.suggestions import suggestion
from emorec.texts import shortened

__all__ = [
    "DataError",
    "Table",
    "as_frame",
    "check_names",
    "check_number",
    "concat_tables",
    "to_numbers",
    "to_texts",
]

_MOST_COLUMNS = 10_000  # some 50 microseconds each, and in JSON one value per row


@dataclass(frozen=True, eq=False)
class Table:
    """A table that can locate each of its rows in the source.

    Attributes:
        frame: The columns, index 0 .. N - 1.
        source: Name of the table in messages: a path, or "the DataFrame".
        place: "line 7 of ratings.csv" for row number 5; lines count from 1 as in an editor.
        names: Names of all columns of the source, those that were not kept included.
        from_text: Whether the ids are text only because the file has no types.
        settable: Whether the settings of reading can be changed. False for events of a trained
            model, which are read with the settings of its log.
    """

    frame: pd.DataFrame
    source: str
    place: Callable[[int], str]
    names: tuple[str, ...]
    from_text: bool = False
    settable: bool = True

    @classmethod
    def of_frame(
        cls, frame: pd.DataFrame, source: str = "the DataFrame", settable: bool = True
    ) -> Table:
        """Wraps a DataFrame; its rows are counted from 1.

        Raises:
            DataError: If it has no row or two columns of one name.
        """
        names = [str(name) for name in frame.columns]
        check_names(names, source)
        if not len(frame):
            raise DataError(f"{source} has no rows; one row per interaction is expected")
        plain = frame.set_axis(names, axis=1).reset_index(drop=True)
        place = partial(_row_of, source=source)
        return cls(plain, source, place, tuple(names), settable=settable)

    def remedy(self, setting: str, value: str) -> str:
        """How to change a setting of the section ``data``, as the end of an error."""
        if not self.settable:
            return f"events are read with the data.{setting} of the model's log"
        return f"give --set data.{setting}={shlex.quote(value)} (Python: {setting}={value!r})"

    def column(self, name: str, meaning: str, remedy: str | None = None) -> pd.Series:
        """Returns a column.

        Args:
            name: Name of the column.
            meaning: What it is needed for: "user id", "item id", "time", "rating", "feedback".
            remedy: What to do where it is absent; None: give another column.

        Raises:
            DataError: If the column is absent; names the most similar ones.
        """
        if name not in self.frame.columns:
            if not self.settable:
                remedy = "rename it: events need the column names of the model's log"
            elif remedy is None:
                setting = f"data.{meaning.removesuffix(' id')}_column"
                remedy = (
                    f"rename it, or say which one holds it: --set {setting}=NAME "
                    f"(Python: EmoRec(..., '{setting}=NAME'))"
                )
                if meaning == "time":
                    remedy += "; for a log without times, leave NAME empty"
                if self.from_text and any(map(_is_number, self.names)):
                    remedy += (
                        "; or, if there is no header and its first line is a row, name the columns "
                        "in their order, such as "
                        "--set data.names=user_id,item_id,rating,timestamp"
                    )
            raise DataError(
                f"{self.source}: there is no column {name!r} for the {meaning} "
                f"({suggestion(name, self.names)}); {remedy}"
            )
        return self.frame[name]

    def full_column(self, name: str, meaning: str) -> pd.Series:
        """A column without a missing value; see `column`.

        Raises:
            DataError: If the column is absent or a value is missing.
        """
        values = self.column(name, meaning)
        missing = values.isna().to_numpy()
        if missing.any():
            place = self.place(int(missing.argmax()))
            raise DataError(
                f"{place}, column {name!r}: the {meaning} is missing; every row needs one"
                f"{_rows(missing)}"
            )
        return values

    def refuse(self, wrong: np.ndarray, column: str, why: str) -> None:
        """Raises an error about the first value that is wrong, bool ``[N]``, if there is one."""
        if wrong.any():
            row = int(wrong.argmax())
            value = shortened(self.frame[column].iloc[row])
            raise DataError(f"{self.place(row)}, column {column!r}: {value!r} {why}{_rows(wrong)}")


def as_frame(data: Any) -> pd.DataFrame | None:
    """Converts a table of any library to a pandas DataFrame; None if ``data`` is not a table.

    Tables of other libraries (polars, PyArrow, DuckDB) are read by the Arrow C stream interface.

    Raises:
        DataError: If PyArrow is not installed, which is needed for that.
    """
    if isinstance(data, pd.DataFrame):
        return data
    if not hasattr(data, "__arrow_c_stream__") or isinstance(data, pd.Series):
        return None
    try:
        arrow = importlib.import_module("pyarrow")
    except ImportError as error:
        raise DataError(
            f"reading a {type(data).__name__} of {type(data).__module__.partition('.')[0]} needs "
            "pyarrow: pip install 'emorec[parquet]'"
        ) from error
    try:
        table = arrow.table(data)
    except (arrow.ArrowException, TypeError, ValueError):
        return None  # a stream of something other than rows of columns
    return table.to_pandas()


def to_numbers(column: pd.Series) -> pd.Series:
    """The numbers of a column, NaN where a value is none, infinite where no float is as large."""
    try:
        return pd.to_numeric(column, errors="coerce")
    except OverflowError:  # of a whole number of hundreds of digits; as text it becomes infinite
        return pd.to_numeric(to_texts(column).where(column.notna()), errors="coerce")


def to_texts(column: pd.Series) -> pd.Series:
    """The text of each value; what Unicode has no character for, as bytes may hold, is escaped."""
    try:
        return column.astype(str)
    except UnicodeError:
        escaped = [str(each).encode(errors="backslashreplace").decode() for each in column]
        return pd.Series(escaped, column.index).astype(str)


def concat_tables(tables: Sequence[Table]) -> Table:
    """Puts tables of the same columns under each other."""
    ends = np.cumsum([len(table.frame) for table in tables])

    def place(row: int) -> str:
        part = int(np.searchsorted(ends, row, side="right"))
        return tables[part].place(row - int(ends[part]) + len(tables[part].frame))

    frame = pd.concat([table.frame for table in tables], ignore_index=True)
    source = " + ".join(table.source for table in tables)
    from_text = all(table.from_text for table in tables)
    return Table(frame, source, place, tables[0].names, from_text)


def check_names(names: Sequence[str], source: str) -> None:
    """Refuses columns of one name, and too many.

    Raises:
        DataError: If there are any.
    """
    for name, count in Counter(names).items():
        if count > 1:
            raise DataError(
                f"{source} names column {shortened(name)!r} {count} times; "
                "each column needs a name of its own"
            )
    check_number(len(names), source)


def check_number(columns: int, source: str) -> None:
    """Refuses too many columns.

    Raises:
        DataError: If there are.
    """
    if columns > _MOST_COLUMNS:
        raise DataError(
            f"{source} has more than {_MOST_COLUMNS:,} columns; a log has a user, an item, a time "
            "and few others, and one line per interaction"
        )


def _row_of(row: int, source: str) -> str:
    return f"row {row + 1} of {source}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _rows(wrong: np.ndarray) -> str:
    count = int(wrong.sum())
    return f" ({count:,} rows are like that)" if count > 1 else ""
