"""Reads files of any common format into tables, whole or part by part."""

from __future__ import annotations

import csv
import importlib
import io
import json
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal, get_args

import pandas as pd

from emorec.data.files import DataError, open_bytes, readable, require_size
from emorec.data.tables import Table, check_names, check_number
from emorec.storage.files import one_line

__all__ = ["DELIMITERS", "FileFormat", "read_parts", "read_table"]

FileFormat = Literal["csv", "jsonl", "parquet"]
DELIMITERS = ("\t", "::", ",", ";", "|", " ")
_SUFFIXES: dict[str, FileFormat] = {
    **dict.fromkeys((".csv", ".tsv", ".txt", ".dat", ".data", ".inter"), "csv"),
    **dict.fromkeys((".jsonl", ".json", ".ndjson"), "jsonl"),
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
}
# Not in columns of text: a user may be called "NA".
_MISSING_NUMBERS = ["", "NA", "N/A", "NaN", "nan", "NULL", "null", "None"]
_OF_TEXT = {"string", "mixed", "mixed-integer"}  # unlike whole numbers beyond int64
_JSON_ROWS_AT_ONCE = 200_000


def read_table(path: str | Path, **options: Any) -> Table:
    """Reads a csv, tsv, JSON lines or parquet file, plain, gzipped or inside a zip or tar archive.

    Args:
        path: The file.
        options: See `read_parts`.

    Raises:
        DataError: If the file cannot be read, is empty, truncated or not in the encoding, or has
            more or fewer columns than names.
    """
    (table,) = read_parts(path, None, **options)
    return table


def read_parts(
    path: str | Path,
    rows: int | None,
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
) -> Iterator[Table]:
    """Reads a file part by part, in bounded memory.

    Types are those of each part: a column may hold numbers in one and text in another.

    Args:
        path: The file.
        rows: Rows of a part; None: the whole file is one.
        member: Name of the file inside ``path`` when that is a zip or tar archive.
        file_format: "csv" (any delimiter), "jsonl" or "parquet"; None: by the suffix.
        delimiter: One or more characters; None: by the header. A file whose delimiter has several
            is read whole, and then parted.
        names: Column names of a csv file that has no header; a first line of these names is one.
        text_columns: Columns of a csv file that are kept as text to the letter, such as ids or
            what rules compare with text; only an empty cell is missing there.
        columns: The columns to keep, to save memory; absent ones are ignored. None keeps all.
        encoding: Encoding of text files; a byte order mark is skipped.
        decimal: What separates decimals in a csv file.
        settable: As the attribute of `Table`.

    Raises:
        DataError: See `read_table`.
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
            number = 0
            for frame, found in _read_parquet(path, member, columns, rows):
                part = Table.of_frame(frame, source, settable)
                yield replace(part, names=tuple(found), place=partial(_row, source, number))
                number += len(frame)
            return
        has_header = False
        if chosen == "jsonl":
            delimiter, frames = (
                None,
                _read_json_lines(path, member, columns, encoding, source, rows),
            )
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
            check_names(found, source)
            keep = [c for c in found if columns is None or c in columns]
            frames = (
                (frame, found)
                for frame in _read_csv(
                    path,
                    member,
                    delimiter,
                    found,
                    has_header,
                    text_columns,
                    keep,
                    encoding,
                    decimal,
                    rows,
                )
            )
        from_text = delimiter is not None

        def place(before: int, row: int) -> str:
            with (
                open_bytes(path, member) as stream,
                io.TextIOWrapper(stream, encoding=encoding, newline="") as text,
            ):
                try:
                    line = _line_of(text, before + row + has_header, delimiter)
                # A cell of over 131,072 characters, which pandas can read, or other records.
                except (csv.Error, StopIteration):
                    return _row(source, before, row)
            return f"line {line} of {source}"

        number = 0
        for frame, found in frames:
            if len(frame):
                yield Table(
                    frame, source, partial(place, number), tuple(found), from_text, settable
                )
            number += len(frame)
        if not number:
            raise DataError(
                f"{source} has a header and no rows; one line per interaction is expected"
            )


def _row(source: str, before: int, row: int) -> str:
    return f"row {before + row + 1} of {source}"


def _first_line(text: IO[str]) -> str:
    return next((line.rstrip("\n") for line in text if line.strip()), "")


def _sniff(header: str, wanted: Iterable[str]) -> str:
    """The delimiter that finds most wanted columns in the header, then most columns."""
    wanted = set(wanted)

    def merit(delimiter: str) -> tuple[int, int]:
        cells = [cell.strip('"') for cell in header.split(delimiter)]
        return len(wanted.intersection(cells)), len(cells)

    return max(DELIMITERS, key=merit)


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
    rows: int | None,
) -> Iterator[pd.DataFrame]:
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
        frames = pd.read_csv(
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
            chunksize=rows,
        )
        for frame in [frames] if isinstance(frames, pd.DataFrame) else frames:
            part = frame[keep].reset_index(drop=True)
            if several is not None:
                # What is left of it stands within quotes.
                texts = [str(c) for c in part if pd.api.types.infer_dtype(part[c]) in _OF_TEXT]
                part = part.assign(
                    **{c: part[c].str.replace(delimiter, several, regex=False) for c in texts}
                )
            yield part


def _single_character(text: str, delimiter: str) -> tuple[str, str]:
    for character in "\x1f\x1e\x1d\x1c\x01\x02":
        if character not in text:
            return character, text.replace(delimiter, character)
    raise DataError(f"a file with delimiter {delimiter!r} must not hold control characters")


def _read_json_lines(
    path: Path,
    member: str | None,
    columns: Sequence[str] | None,
    encoding: str,
    source: str,
    rows: int | None,
) -> Iterator[tuple[pd.DataFrame, list[str]]]:
    # Python's parser keeps every value as written; pandas' guesses dates by the column's name.
    parts: list[pd.DataFrame] = []
    names: dict[str, None] = {}  # an ordered set
    with (
        open_bytes(path, member) as stream,
        io.TextIOWrapper(stream, encoding=encoding) as text,
    ):
        records = _json_objects(text, source)
        while chunk := list(islice(records, rows or _JSON_ROWS_AT_ONCE)):
            for record in chunk:
                names.update(dict.fromkeys(record))
            check_number(len(names), source)
            keep = [c for c in names if columns is None or c in columns]
            data = {c: [record.get(c) for record in chunk] for c in keep}
            parts.append(pd.DataFrame(data, index=range(len(chunk))))
            if rows is not None:
                yield parts.pop(), list(names)
    if not names:
        raise DataError(f"{source} is empty; one line per interaction is expected")
    if parts:
        yield pd.concat(parts, ignore_index=True), list(names)


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
    path: Path, member: str | None, columns: Sequence[str] | None, rows: int | None
) -> Iterator[tuple[pd.DataFrame, list[str]]]:
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
            if rows is None:
                size = 8 * file.metadata.num_rows * len(keep)  # at least; repeats are small
                require_size(size, path.stat().st_size, str(path))
                tables = [file.read(columns=keep)]
            else:
                tables = file.iter_batches(rows, columns=keep)
            for table in tables:
                frame = table.to_pandas()
                if frame.index.names != [None]:  # a column that pandas wrote as its index
                    frame = frame.reset_index()
                yield frame, names
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
    return next(islice(lines, record, None))


def _csv_starts(text: IO[str], delimiter: str) -> Iterator[int]:
    simple, line = delimiter if len(delimiter) == 1 else "\x1f", ""

    def lines() -> Iterator[str]:
        nonlocal line
        for each in text:
            line = each.replace(delimiter, simple)
            yield line

    reader, start = csv.reader(lines(), delimiter=simple), 1
    of_blank_lines = " \t\r\n".replace(simple, "")  # those that pandas leaves out
    for _ in reader:
        if line.strip(of_blank_lines):
            yield start
        start = reader.line_num + 1
