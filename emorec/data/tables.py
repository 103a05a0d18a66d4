"""Reads files of any common format into tables that can locate each of their rows."""

from __future__ import annotations

import csv
import importlib
import io
import json
import shlex
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal, get_args

import numpy as np
import pandas as pd

from emorec.data.files import DataError, open_bytes, readable, require_size
from emorec.storage.files import one_line
from emorec.suggestions import suggestion
from emorec.texts import shortened

__all__ = [
    "DELIMITERS",
    "DataError",
    "FileFormat",
    "Table",
    "as_frame",
    "concat_tables",
    "read_table",
    "to_numbers",
]

FileFormat = Literal["csv", "jsonl", "parquet"]
_SUFFIXES: dict[str, FileFormat] = {
    **dict.fromkeys((".csv", ".tsv", ".txt", ".dat", ".data", ".inter"), "csv"),
    **dict.fromkeys((".jsonl", ".json", ".ndjson"), "jsonl"),
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
}
DELIMITERS = ("\t", "::", ",", ";", "|", " ")
# Not in columns of text: a user may be called "NA".
_MISSING_NUMBERS = ["", "NA", "N/A", "NaN", "nan", "NULL", "null", "None"]
_JSON_ROWS_AT_ONCE = 200_000
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
        _check_names(names, source)
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


def read_table(
    path: str | Path,
    *,
    member: str | None = None,
    file_format: FileFormat | None = None,
    delimiter: str | None = None,
    names: Sequence[str] | None = None,
    text_columns: Sequence[str] = (),
    columns: Sequence[str] | None = None,
    encoding: str = "utf-8",
    decimal: str = ".",
    settable: bool = True,
) -> Table:
    """Reads a csv, tsv, JSON lines or parquet file, plain, gzipped or inside a zip or tar archive.

    Args:
        path: The file.
        member: Name of the file inside ``path`` when that is a zip or tar archive.
        file_format: "csv" (any delimiter), "jsonl" or "parquet"; None: by the suffix.
        delimiter: One or more characters; None: by the header.
        names: Column names of a csv file that has no header; a first line of these names is one.
        text_columns: Columns of a csv file that are kept as text to the letter, such as ids or
            what rules compare with text; only an empty cell is missing there.
        columns: The columns to keep, to save memory; absent ones are ignored. None keeps all.
        encoding: Encoding of text files; a byte order mark is skipped.
        decimal: What separates decimals in a csv file.
        settable: As the attribute of `Table`.

    Raises:
        DataError: If the file cannot be read, is empty, truncated or not in the encoding, or has
            more or fewer columns than names.
    """
    path = Path(path)
    source = str(path) if member is None else f"{path}:{member}"
    suffixes = Path(member or path.name).suffixes
    suffix = next((s.lower() for s in reversed(suffixes) if s.lower() != ".gz"), "")
    if path.is_dir():
        raise DataError(f"{source} is a folder; give a file")
    chosen = file_format or _SUFFIXES.get(suffix)
    if chosen not in get_args(FileFormat):
        raise DataError(
            f"{source}: unknown file format {suffix or 'a name without suffix'!r}; "
            f"rename the file or give file_format, one of {', '.join(get_args(FileFormat))}"
        )
    if encoding.lower().replace("-", "") == "utf8":
        encoding = "utf-8-sig"  # the same, but skips a byte order mark
    with readable(source, encoding, settable):
        if chosen == "parquet":
            frame, found = _read_parquet(path, member, columns)
            return replace(Table.of_frame(frame, source, settable), names=tuple(found))
        if chosen == "jsonl":
            frame, found = _read_json_lines(path, member, columns, encoding, source)
            delimiter, has_header = None, False
        else:
            with (
                open_bytes(path, member) as stream,
                io.TextIOWrapper(stream, encoding=encoding) as text,
            ):
                header = _first_line(text)
            if not header:
                raise DataError(f"{source} is empty; one line per interaction is expected")
            delimiter = delimiter or _sniff(header, [*text_columns, *(columns or ())])
            found = next(csv.reader([header.replace(delimiter, "\x1f")], delimiter="\x1f"))
            has_header = names is None or found == list(names)
            if names is not None and len(found) != len(names):
                raise DataError(
                    f"{source}: {len(names)} columns are named ({', '.join(names)}), but the first "
                    f"line has {len(found)}: {header[:80]!r}"
                )
            found = found if names is None else list(names)
            _check_names(found, source)
            keep = [c for c in found if columns is None or c in columns]
            frame = _read_csv(
                path, member, delimiter, found, has_header, text_columns, keep, encoding, decimal
            )
    if not len(frame):
        raise DataError(f"{source} has a header and no rows; one line per interaction is expected")

    def place(row: int) -> str:
        with (
            open_bytes(path, member) as stream,
            io.TextIOWrapper(stream, encoding=encoding, newline="") as text,
        ):
            try:
                line = _line_of(text, row + has_header, delimiter)
            except csv.Error:  # a cell of over 131,072 characters, which pandas can read
                return f"row {row + 1} of {source}"
        return f"line {line} of {source}"

    from_text = delimiter is not None
    return Table(frame, source, place, tuple(found), from_text, settable)


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
        return pd.to_numeric(column.astype(str).where(column.notna()), errors="coerce")


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


def _first_line(text: IO[str]) -> str:
    return next((line.rstrip("\n") for line in text if line.strip()), "")


def _sniff(header: str, wanted: Iterable[str]) -> str:
    """The delimiter that finds most wanted columns in the header, then most columns."""
    wanted = set(wanted)

    def merit(delimiter: str) -> tuple[int, int]:
        cells = [cell.strip('"') for cell in header.split(delimiter)]
        return len(wanted.intersection(cells)), len(cells)

    return max(DELIMITERS, key=merit)


def _check_names(names: list[str], source: str) -> None:
    for name, count in Counter(names).items():
        if count > 1:
            raise DataError(
                f"{source} names column {shortened(name)!r} {count} times; "
                "each column needs a name of its own"
            )
    _check_number(len(names), source)


def _check_number(columns: int, source: str) -> None:
    if columns > _MOST_COLUMNS:
        raise DataError(
            f"{source} has more than {_MOST_COLUMNS:,} columns; a log has a user, an item, a time "
            "and few others, and one line per interaction"
        )


def _read_csv(
    path: Path,
    member: str | None,
    delimiter: str,
    names: list[str],
    has_header: bool,
    text_columns: Sequence[str],
    keep: list[str],
    encoding: str,
    decimal: str,
) -> pd.DataFrame:
    with open_bytes(path, member) as stream, warnings.catch_warnings():
        # Pandas only warns when rows have more cells than the header, and drops what is over.
        warnings.simplefilter("error", pd.errors.ParserWarning)
        content: IO[bytes] | IO[str] = stream
        several: str | None = None
        if len(delimiter) > 1:
            # A separator of several characters would take the slow Python parser.
            several = delimiter
            delimiter, text = _single_character(stream.read().decode(encoding), several)
            content = io.StringIO(text)
        # All columns are read, or a row with too many cells would go unnoticed.
        frame = pd.read_csv(
            content,
            sep=delimiter,
            names=names,
            header=0 if has_header else None,
            index_col=False,
            dtype={name: str for name in text_columns if name in names},
            keep_default_na=False,
            na_values={c: [""] if c in text_columns else _MISSING_NUMBERS for c in names},
            low_memory=False,
            encoding=encoding,
            decimal=decimal,
        )
        frame = frame[keep]
        if several is not None:
            # What is left of it stands within quotes.
            texts = frame.select_dtypes(include=["object", "string"]).columns
            frame = frame.assign(
                **{c: frame[c].str.replace(delimiter, several, regex=False) for c in texts}
            )
        return frame


def _single_character(text: str, delimiter: str) -> tuple[str, str]:
    for character in "\x1f\x1e\x1d\x1c\x01\x02":
        if character not in text:
            return character, text.replace(delimiter, character)
    raise DataError(f"a file with delimiter {delimiter!r} must not hold control characters")


def _read_json_lines(
    path: Path, member: str | None, columns: Sequence[str] | None, encoding: str, source: str
) -> tuple[pd.DataFrame, list[str]]:
    # Python's parser keeps every value as written; pandas' guesses dates by the column's name.
    parts: list[pd.DataFrame] = []
    names: dict[str, None] = {}  # an ordered set
    with (
        open_bytes(path, member) as stream,
        io.TextIOWrapper(stream, encoding=encoding) as text,
    ):
        records = _json_objects(text, source)
        while chunk := list(islice(records, _JSON_ROWS_AT_ONCE)):
            for record in chunk:
                names.update(dict.fromkeys(record))
            _check_number(len(names), source)
            keep = [c for c in names if columns is None or c in columns]
            data = {c: [record.get(c) for record in chunk] for c in keep}
            parts.append(pd.DataFrame(data, index=range(len(chunk))))
    if not parts:
        raise DataError(f"{source} is empty; one line per interaction is expected")
    return pd.concat(parts, ignore_index=True), list(names)


def _json_objects(lines: Iterable[str], source: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            if "\\u" in line:  # only an escape can be a lone surrogate
                json.dumps(record, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise DataError(
                f"line {number} of {source}: an escape such as \\ud800 is a lone surrogate; write "
                "the character itself, or both surrogates"
            ) from None
        except (ValueError, RecursionError):  # ValueError: also of too long a number
            record = None
        if not isinstance(record, dict):
            raise DataError(
                f"line {number} of {source}: not a JSON object; each line must be one, such as "
                '{"user_id": 1, "item_id": 2, "rating": 5, "timestamp": 978300760}'
            )
        yield record


def _read_parquet(
    path: Path, member: str | None, columns: Sequence[str] | None
) -> tuple[pd.DataFrame, list[str]]:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise DataError(
            f"{path}: reading parquet needs pyarrow: pip install 'emorec[parquet]'"
        ) from error
    try:
        with open_bytes(path, member, lines=False) as stream:
            file = parquet.ParquetFile(io.BytesIO(stream.read()) if member else str(path))
            names = list(file.schema_arrow.names)
            keep = [c for c in names if columns is None or c in columns]
            size = 8 * file.metadata.num_rows * len(keep)  # at least; one value repeated is small
            require_size(size, path.stat().st_size, str(path))
            frame = file.read(columns=keep).to_pandas()
            if frame.index.names != [None]:  # a column that pandas wrote as its index
                frame = frame.reset_index()
            return frame, names
    except (OSError, ValueError, TypeError, NotImplementedError, KeyError) as error:
        if isinstance(error, FileNotFoundError | DataError):
            raise
        raise DataError(f"{path}: not a readable parquet file: {one_line(error)}") from error


def _line_of(text: IO[str], record: int, delimiter: str | None) -> int:
    """The line, from 1, on which a record, from 0, begins; blank lines are no records.

    Called for one row, when something is wrong with it.
    """
    lines: Iterator[int]
    if delimiter is None:
        lines = (number for number, line in enumerate(text, 1) if line.strip())
    else:
        lines = _csv_starts(text, delimiter)
    for count, line in enumerate(lines):
        if count == record:
            return line
    raise IndexError(f"there is no record {record}")


def _csv_starts(text: IO[str], delimiter: str) -> Iterator[int]:
    simple = delimiter if len(delimiter) == 1 else "\x1f"
    reader = csv.reader((line.replace(delimiter, simple) for line in text), delimiter=simple)
    start = 1
    for cells in reader:
        blank = not cells or (len(cells) == 1 and cells[0].isspace())
        if not blank:
            yield start
        start = reader.line_num + 1
