"""Files of any common format as tables that remember where each row came from."""

from __future__ import annotations

import csv
import importlib
import io
import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, get_args

import numpy as np
import pandas as pd

from emorec.data.expressions import nearest
from emorec.data.files import DataError, open_bytes, readable

__all__ = ["DataError", "FileFormat", "Table", "concat_tables", "read_table"]

FileFormat = Literal["csv", "jsonl", "parquet"]
_SUFFIXES: dict[str, FileFormat] = {
    **dict.fromkeys((".csv", ".tsv", ".txt", ".dat", ".data", ".inter"), "csv"),
    **dict.fromkeys((".jsonl", ".json", ".ndjson"), "jsonl"),
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
}
_DELIMITERS = ("\t", "::", ",", ";", "|", " ")
# Only where a number is expected: a user may be called "NA".
_MISSING_NUMBERS = ["", "NA", "N/A", "NaN", "nan", "NULL", "null", "None"]
_JSON_ROWS_AT_ONCE = 200_000


@dataclass(frozen=True, eq=False)
class Table:
    """A table and the way back to the place of each row.

    Attributes:
        frame: The columns, index 0 .. N - 1.
        source: What messages call the table: a path, or "the DataFrame".
        place: "line 7 of ratings.csv" for row number 5; lines count from 1 as in an editor.
        from_text: Whether the ids are text only because the file has no types.
    """

    frame: pd.DataFrame
    source: str
    place: Callable[[int], str]
    from_text: bool = False

    @classmethod
    def of_frame(cls, frame: pd.DataFrame, source: str = "the DataFrame") -> Table:
        """Wraps a DataFrame; its rows are counted from 1.

        Raises:
            DataError: If it has no row or two columns of one name.
        """
        _check_names(list(map(str, frame.columns)), source)
        if frame.empty:
            raise DataError(f"{source} has no rows; one row per interaction is expected")
        plain = frame.reset_index(drop=True)
        return cls(plain, source, lambda row: f"row {row + 1} of {source}")

    def column(self, name: str, meaning: str) -> pd.Series:
        """A column, or an error that names the nearest ones.

        Raises:
            DataError: If the column is absent.
        """
        if name not in self.frame.columns:
            raise DataError(
                f"{self.source}: there is no column {name!r} for the {meaning} "
                f"({nearest(name, self.frame.columns)}); name the column to use for the {meaning}"
            )
        return self.frame[name]

    def error(self, row: int, column: str, value: object, why: str) -> DataError:
        """An error about one value."""
        return DataError(f"{self.place(row)}, column {column!r}: {value!r} {why}")


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
) -> Table:
    """Reads a csv, tsv, JSON lines or parquet file, plain, gzipped or inside a zip or tar archive.

    Args:
        path: The file.
        member: Name of the file inside ``path`` when that is a zip or tar archive.
        file_format: "csv" (any delimiter), "jsonl" or "parquet"; None tells by the suffix.
        delimiter: One or more characters; None tells by the header.
        names: Column names of a file that has no header.
        text_columns: Columns of a csv file that are kept as text to the letter, such as ids.
        columns: The columns to keep, to save memory; absent ones are ignored. None keeps all.
        encoding: Encoding of text files; a byte order mark is skipped.

    Raises:
        DataError: If the file cannot be read, is empty, truncated or not in the encoding.
    """
    path = Path(path)
    source = str(path) if member is None else f"{path}:{member}"
    suffixes = Path(member or path.name).suffixes
    suffix = next((s.lower() for s in reversed(suffixes) if s.lower() != ".gz"), "")
    chosen = file_format or _SUFFIXES.get(suffix)
    if chosen not in get_args(FileFormat):
        raise DataError(
            f"{source}: cannot tell the file format by {suffix or 'a name without suffix'!r}; "
            f"give file_format, one of {', '.join(get_args(FileFormat))}"
        )
    if encoding.lower().replace("-", "") == "utf8":
        encoding = "utf-8-sig"  # the same, but skips a byte order mark
    with readable(source, encoding):
        if chosen == "parquet":
            frame = _read_parquet(path, member, columns)
            return Table.of_frame(frame, source)
        if chosen == "jsonl":
            frame = _read_json_lines(path, member, columns, encoding, source)
            delimiter = None
        else:
            with open_bytes(path, member) as stream:
                header = _first_line(stream).decode(encoding).rstrip("\r\n")
            if not header.strip():
                raise DataError(f"{source} is empty; one line per interaction is expected")
            delimiter = delimiter or _sniff(header, [*text_columns, *(columns or ())])
            if names is None:
                found = next(csv.reader([header.replace(delimiter, "\x1f")], delimiter="\x1f"))
                _check_names(found, source)
            else:
                found = list(names)
            keep = [c for c in found if columns is None or c in columns]
            frame = _read_csv(
                path, member, delimiter, found, names is None, text_columns, keep, encoding
            )
    if frame.empty:
        raise DataError(f"{source} has a header and no rows; one line per interaction is expected")

    def place(row: int) -> str:
        with open_bytes(path, member) as stream:
            text = io.TextIOWrapper(stream, encoding=encoding, newline="")
            line = _line_of(text, row + (delimiter is not None and names is None), delimiter)
        return f"line {line} of {source}"

    return Table(frame, source, place, from_text=delimiter is not None)


def concat_tables(tables: Sequence[Table]) -> Table:
    """Puts tables of the same columns under each other."""
    ends = np.cumsum([len(table.frame) for table in tables])

    def place(row: int) -> str:
        part = int(np.searchsorted(ends, row, side="right"))
        return tables[part].place(row - int(ends[part]) + len(tables[part].frame))

    frame = pd.concat([table.frame for table in tables], ignore_index=True)
    source = " + ".join(table.source for table in tables)
    return Table(frame, source, place, all(table.from_text for table in tables))


def _first_line(stream: IO[bytes]) -> bytes:
    for line in stream:
        if line.strip():
            return line
    return b""


def _sniff(header: str, wanted: Iterable[str]) -> str:
    """The delimiter that finds most wanted columns in the header, then most columns."""
    wanted = set(wanted)

    def merit(delimiter: str) -> tuple[int, int]:
        cells = [cell.strip('"') for cell in header.split(delimiter)]
        return len(wanted.intersection(cells)), len(cells)

    return max(_DELIMITERS, key=merit)


def _check_names(names: list[str], source: str) -> None:
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise DataError(
            f"{source}: the header names column {twice[0]!r} {names.count(twice[0])} times; "
            "each column needs a name of its own"
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
) -> pd.DataFrame:
    with open_bytes(path, member) as stream, warnings.catch_warnings():
        # Pandas only warns when rows have more cells than the header, and drops what is over.
        warnings.simplefilter("error", pd.errors.ParserWarning)
        content: IO[bytes] | IO[str] = stream
        if len(delimiter) > 1:
            # A separator of several characters would take the slow Python parser.
            delimiter, text = _single_character(stream.read().decode(encoding), delimiter)
            content = io.StringIO(text)
        return pd.read_csv(
            content,
            sep=delimiter,
            names=names,
            header=0 if has_header else None,
            usecols=keep,
            index_col=False,
            dtype={name: str for name in text_columns if name in keep},
            keep_default_na=False,
            na_values={c: [""] if c in text_columns else _MISSING_NUMBERS for c in keep},
            low_memory=False,
            encoding=encoding,
        )


def _single_character(text: str, delimiter: str) -> tuple[str, str]:
    for character in "\x1f\x1e\x1d\x1c\x01\x02":
        if character not in text:
            return character, text.replace(delimiter, character)
    raise DataError(f"a file with delimiter {delimiter!r} must not hold control characters")


def _read_json_lines(
    path: Path, member: str | None, columns: Sequence[str] | None, encoding: str, source: str
) -> pd.DataFrame:
    parts = []
    try:
        with open_bytes(path, member) as stream:
            text: Any = io.TextIOWrapper(stream, encoding=encoding)
            for part in pd.read_json(
                text,
                lines=True,
                chunksize=_JSON_ROWS_AT_ONCE,
                dtype=False,
                convert_dates=False,
            ):
                parts.append(part[[c for c in part if columns is None or c in columns]])
    except UnicodeError:
        raise
    except ValueError as error:
        with open_bytes(path, member) as stream:
            line = _first_bad_json(io.TextIOWrapper(stream, encoding=encoding))
        if line is None:
            raise DataError(f"{source}: {error}") from error
        raise DataError(
            f"line {line} of {source}: not a JSON object; each line must be one, such as "
            '{"user_id": 1, "item_id": 2, "rating": 5, "timestamp": 978300760}'
        ) from error
    if not parts:
        raise DataError(f"{source} is empty; one line per interaction is expected")
    return pd.concat(parts, ignore_index=True)


def _read_parquet(path: Path, member: str | None, columns: Sequence[str] | None) -> pd.DataFrame:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise DataError(
            f"{path}: reading parquet needs pyarrow: pip install 'emorec[parquet]'"
        ) from error
    try:
        with open_bytes(path, member) as stream:
            file = parquet.ParquetFile(io.BytesIO(stream.read()) if member else str(path))
            keep = [c for c in file.schema_arrow.names if columns is None or c in columns]
            return file.read(columns=keep).to_pandas()
    except (OSError, ValueError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise DataError(f"{path}: not a readable parquet file: {error}") from error


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
        if cells:
            yield start
        start = reader.line_num + 1


def _first_bad_json(text: IO[str]) -> int | None:
    for number, line in enumerate(text, 1):
        try:
            if line.strip() and not isinstance(json.loads(line), dict):
                return number
        except json.JSONDecodeError:
            return number
    return None
