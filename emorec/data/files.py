"""Opening files and archives, and what to say when they are damaged."""

from __future__ import annotations

import codecs
import csv
import gzip
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

import pandas as pd

__all__ = ["DataError", "open_bytes", "readable"]


class DataError(ValueError):
    """Data that cannot be read; the message names file, row, column and value."""


@contextmanager
def open_bytes(path: Path, member: str | None) -> Iterator[IO[bytes]]:
    """The bytes of a file, or of a member of a zip or tar archive; .gz is unpacked."""
    if member is None:
        packed = path.suffix.lower() == ".gz"
        with cast(IO[bytes], gzip.open(path) if packed else path.open("rb")) as stream:
            yield stream
    elif path.suffix.lower() == ".zip":
        with zipfile.ZipFile(path) as archive, archive.open(member) as stream:
            yield stream
    else:
        with tarfile.open(path) as tar:
            found = tar.extractfile(member)
            if found is None:
                raise KeyError(f"{member} is not a file")
            with found:
                yield found


@contextmanager
def readable(source: str, encoding: str, settable: bool = True) -> Iterator[None]:
    """Turns what goes wrong while bytes become a table into errors that say what to do."""
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{source}: there is no such file") from None
    except IsADirectoryError:
        raise DataError(f"{source} is a folder; give a file") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{source}: the compressed file is truncated or damaged ({error}); "
            "copy or download it again"
        ) from error
    except (zipfile.BadZipFile, tarfile.TarError, KeyError) as error:
        raise DataError(f"{source}: not the archive it should be: {error}") from error
    except UnicodeError as error:
        start = error.object[:2] if isinstance(error, UnicodeDecodeError) else b""
        likely = "utf-16" if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "latin-1"
        encoding = encoding.removesuffix("-sig")
        remedy = (
            f"save it as UTF-8, or give --set data.encoding={likely} (Python: encoding={likely!r})"
        )
        if not settable:
            remedy = f"the model was trained with data.encoding={encoding}, which its events share"
        raise DataError(f"{source}: not {encoding} text ({error}); {remedy}") from error
    except LookupError as error:
        raise DataError(f"{source}: {error}") from error
    except pd.errors.ParserWarning as error:
        raise DataError(
            f"{source}: rows have more cells than the header has names; "
            "check the delimiter and the quotes"
        ) from error
    except (pd.errors.ParserError, csv.Error) as error:
        raise DataError(
            f"{source}: a line does not fit the header: {str(error).strip()}; "
            "check the delimiter and the quotes"
        ) from error
