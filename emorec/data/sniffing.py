"""How an unknown text file is written: its encoding, delimiter, header and decimals."""

from __future__ import annotations

import codecs
import io
import re
from pathlib import Path

import pandas as pd

from emorec.data.files import open_bytes
from emorec.data.table_files import DELIMITERS
from emorec.data.tables import to_texts

__all__ = ["encoding_of", "first_line", "has_commas", "is_text", "is_value"]


def encoding_of(path: Path) -> str:
    """UTF-8 if the whole file can be decoded, else what a byte order mark says, else cp1252."""
    with open_bytes(path, None) as stream:
        if stream.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            return "utf-16"
    for encoding in ("utf-8", "cp1252"):
        decoder = codecs.getincrementaldecoder(encoding)()
        try:
            with open_bytes(path, None) as stream:
                while chunk := stream.read(1 << 20):
                    decoder.decode(chunk)
                decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            continue
        return encoding
    return "latin-1"


def first_line(path: Path, encoding: str) -> tuple[str, list[str]]:
    """The delimiter and the cells of a file's first line; names in a header may hold blanks."""
    with (
        open_bytes(path, None) as stream,
        io.TextIOWrapper(stream, encoding=encoding) as text,
    ):
        line = next((line.strip("\ufeff\r\n") for line in text if line.strip()), "")
    delimiter = max(DELIMITERS, key=lambda each: len(line.split(each)))
    cells = [cell.strip('"') for cell in line.split(delimiter)]
    if delimiter == " " and not any(map(is_value, cells)):
        other = max(DELIMITERS[:-1], key=lambda each: len(line.split(each)))
        if other in line:
            delimiter, cells = other, line.split(other)
    return delimiter, cells


def is_value(cell: str) -> bool:
    """Whether a cell of the first line is a number or a date, which no column is called."""
    return bool(re.fullmatch(r"[-+]?[\d.,:/ T-]*\d[\d.,:/ TZ-]*", cell.strip()))


def is_text(values: pd.Series) -> bool:
    """Whether a column holds text, or values of several types."""
    return pd.api.types.is_object_dtype(values) or pd.api.types.is_string_dtype(values)


def has_commas(values: pd.Series) -> bool:
    """Whether these are numbers with decimal commas."""
    if not is_text(values):
        return False
    texts = to_texts(values.dropna()).str.strip()
    is_number = texts.str.fullmatch(r"-?\d+(,\d+)?")
    return bool(len(texts) and is_number.all() and texts.str.contains(",").any())
