"""Files that are written completely or not at all, and checks of files to read."""

from __future__ import annotations

import errno
import json
import math
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = [
    "FileError",
    "atomic_path",
    "make_folder",
    "one_line",
    "read_json",
    "read_text",
    "require_regular_file",
    "sync_file",
    "sync_folder",
    "to_json",
    "write_text",
]

MAX_SETTINGS = 1 << 17  # bytes of a file that people write: settings, rules
_CANNOT_SYNC = (errno.EINVAL, errno.EBADF, errno.ENOTSUP)  # of file systems, for folders


class FileError(ValueError):
    """A file that is missing or cannot be used; the message says what to do."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary file in the same folder, renamed to ``path`` if the block succeeds.

    Whatever was there before stays until the new file is complete. When the block has ended, the
    new one is on the disk and stays there if the power goes.

    Raises:
        OSError: If the file cannot be written, for instance because the disk is full.
    """
    make_folder(path.parent)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)  # mkstemp made it private
        sync_file(temporary)
        temporary.replace(path)
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error}; what was there before stays") from error
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Writes a text file."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON that any reader takes: a number that is none or infinite becomes null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def require_regular_file(path: Path) -> None:
    """Refuses what is not a file: devices and pipes have no end, or can be read once only.

    Raises:
        FileError: If there is no such file, or it is a folder, a device, a pipe or a socket.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise FileError(f"{path}: cannot be read: there is no such file") from None
    except (ValueError, OSError) as error:  # a null character, too long a name, no permission
        raise FileError(f"{str(path)!r}: cannot be read: {error}") from None
    if stat.S_ISDIR(mode):
        raise FileError(f"{path}: cannot be read: it is a folder; give a file")
    if not stat.S_ISREG(mode):
        raise FileError(
            f"{path}: cannot be read: it is a device, a pipe or a socket; give a regular file"
        )


def read_text(path: Path, most: int | None = MAX_SETTINGS) -> str:
    """The text of a regular UTF-8 file of at most ``most`` bytes; None: of any size.

    Raises:
        FileError: If it is something else.
    """
    require_regular_file(path)
    try:
        with path.open("rb") as file:
            content = file.read(None if most is None else most + 1)
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error})") from error
    if most is not None and len(content) > most:
        raise FileError(f"{path}: has more than {most:,} bytes, which is too much for this file")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FileError(f"{path}: cannot be read: not UTF-8 text ({error})") from error


def read_json(path: Path) -> Any:
    """The value of a JSON file.

    Raises:
        FileError: If it cannot be read or is not JSON.
    """
    text = read_text(path, most=None)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path}: is damaged: not JSON ({one_line(error)})") from error


def one_line(error: BaseException) -> str:
    """The message of an error as one line of moderate length."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]}..."


def make_folder(folder: Path) -> None:
    """Makes a folder, and those above it, where they are missing; a loss of power keeps them.

    Raises:
        OSError: If it cannot be made.
    """
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in reversed(missing):
        sync_folder(each.parent)


def sync_file(path: Path) -> None:
    """Waits until the content of a file is on the disk.

    Raises:
        OSError: If it cannot be written there.
    """
    with path.open("rb") as file:
        _sync(file.fileno(), path)


def sync_folder(folder: Path) -> None:
    """Waits until the names in a folder are on the disk, where its file system can say so.

    Raises:
        OSError: If they cannot be written there.
    """
    if os.name == "nt":  # folders cannot be opened there
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:  # of a folder that may be written but not be read
        return
    try:
        _sync(handle, folder)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
    finally:
        os.close(handle)


def _sync(handle: int, path: Path) -> None:
    try:
        os.fsync(handle)
    except OSError as error:  # which does not say of what
        raise OSError(error.errno, error.strerror, str(path)) from error
