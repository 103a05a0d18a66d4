"""Opens files and archives, and explains what is wrong with damaged ones."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import pandas as pd

from emorec.storage.files import FileError, one_line, require_regular_file

__all__ = ["DataError", "open_bytes", "readable", "require_size", "tar_members"]


class DataError(ValueError):
    """Data that cannot be read; the message names file, row, column and value."""


MAX_LINE = 1 << 24  # bytes; the longest reviews have some 50,000
MAX_RATIO = 200  # of unpacked to packed size; logs of repeated rows reach some 50, bombs 1,000
FREE_SIZE = 1 << 28  # bytes that any file may unpack to


@contextmanager
def open_bytes(path: Path, member: str | None, lines: bool = True) -> Iterator[IO[bytes]]:
    """The bytes of a file, or of a member of a zip or tar archive; .gz is unpacked.

    Args:
        path: A regular file.
        member: Name of the file inside an archive.
        lines: Whether the file is made of lines, none of which may be longer than 16 MiB.

    Raises:
        DataError: If ``path`` is not a regular file or, while reading, if a line is too long or a
            packed file unpacks to more than 200 times its size and 256 MiB.
    """
    if path.exists():
        try:
            require_regular_file(path)
        except FileError as error:
            raise DataError(str(error)) from error
    source = str(path) if member is None else f"{path}:{member}"
    packed = path.stat().st_size
    if member is None:
        is_packed = path.suffix.lower() == ".gz"
        with cast(IO[bytes], gzip.open(path) if is_packed else path.open("rb")) as stream:
            yield _bounded(stream, source, packed if is_packed else None, lines)
    elif path.suffix.lower() == ".zip":
        with zipfile.ZipFile(path) as archive, archive.open(member) as stream:
            yield _bounded(stream, source, packed, lines)
    else:
        with tarfile.open(path) as tar:
            named = (info for info in tar_members(tar, path) if info.name == member)
            info = next(named, None)
            found = None if info is None else tar.extractfile(info)
            if found is None:
                raise KeyError(f"there is no file {member!r} in it")
            with found:
                yield _bounded(found, source, packed, lines)


def tar_members(tar: tarfile.TarFile, path: Path) -> Iterator[tarfile.TarInfo]:
    """The members of a tar archive; each is measured before it is unpacked to get to the next.

    Raises:
        DataError: If they unpack to far more than logs do.
    """
    size, packed = 0, path.stat().st_size
    for info in tar:
        size += tarfile.BLOCKSIZE + info.size
        require_size(size, packed, str(path))
        yield info


def require_size(size: int, packed: int, source: str) -> None:
    """Refuses a file that unpacks to far more than a log does.

    Raises:
        DataError: If ``size`` bytes are more than 256 MiB and 200 times the ``packed`` ones.
    """
    if size > max(FREE_SIZE, MAX_RATIO * packed):
        raise DataError(
            f"{source}: unpacks to more than {MAX_RATIO} times its {packed:,} bytes, which is "
            "unusual for a log; if it is one, unpack it by other means"
        )


def _bounded(stream: IO[bytes], source: str, packed: int | None, lines: bool) -> IO[bytes]:
    return cast(IO[bytes], io.BufferedReader(_Bounded(stream, source, packed, lines), 1 << 16))


class _Bounded(io.RawIOBase):
    """Passes bytes on, and stops where there are too many of them, in all or in one line."""

    def __init__(self, stream: IO[bytes], source: str, packed: int | None, lines: bool) -> None:
        self._stream, self._source, self._packed, self._lines = stream, source, packed, lines
        self._size = self._line = 0  # bytes so far, in all and of the line that has begun

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        chunk = self._stream.read(len(buffer))
        buffer[: len(chunk)] = chunk
        self._size += len(chunk)
        if self._packed is not None:
            require_size(self._size, self._packed, self._source)
        if self._lines:
            end = max(chunk.rfind(b"\n"), chunk.rfind(b"\r"))
            self._line = len(chunk) - end - 1 if end >= 0 else self._line + len(chunk)
            if self._line > MAX_LINE:
                raise DataError(
                    f"{self._source}: a line is longer than {MAX_LINE:,} bytes; one line per "
                    "interaction is expected"
                )
        return len(chunk)


@contextmanager
def readable(source: str, encoding: str, settable: bool = True) -> Iterator[None]:
    """Turns errors of reading a table into errors that say what to do."""
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{source}: there is no such file") from None
    except (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError) as error:
        raise DataError(
            f"{source}: the compressed file is truncated or damaged ({error}); "
            "copy or download it again"
        ) from error
    except (zipfile.BadZipFile, tarfile.TarError, KeyError) as error:
        raise DataError(f"{source}: not a readable archive: {error}") from error
    except RuntimeError as error:  # of encryption, or a compression that is not known
        raise DataError(
            f"{source}: cannot be unpacked here ({one_line(error)}); unpack it by other means"
        ) from error
    except (MemoryError, OverflowError) as error:
        raise DataError(f"{source}: is too large to be read ({one_line(error)})") from error
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
        raise DataError(f"{source}: {one_line(error)}") from error
    except OSError as error:  # without a name, such as of a place before the start of an archive
        raise DataError(f"{source}: cannot be read ({one_line(error)})") from error
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
    except ValueError as error:  # such as a name of an encoding that cannot be one
        raise DataError(f"{source}: cannot be read ({one_line(error)})") from error
