"""Downloads that either finish or leave nothing behind."""

from __future__ import annotations

import hashlib
import http.client
import os
import tempfile
import urllib.request
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from emorec.data.tables import DataError

__all__ = ["download", "md5_of"]

_CHUNK = 1 << 20  # bytes
_TIMEOUT = 30  # seconds without a byte


def download(url: str, path: Path, md5: str | None = None, progress: bool = True) -> None:
    """Fetches a file to a temporary name in the same folder and renames it when it is whole.

    Args:
        url: The address.
        path: Where the file goes; an existing file is replaced.
        md5: Expected checksum, in hexadecimal; None leaves it unchecked.
        progress: Whether to show a progress bar.

    Raises:
        DataError: If the address or the folder fails, or the file is cut short or not the
            expected one; then nothing is left behind.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise DataError(f"cannot write into {path.parent}: {error}") from error
    try:
        with os.fdopen(handle, "wb") as file:
            found = _fetch(url, file, path.name, progress)
        if md5 is not None and found != md5:
            raise DataError(
                f"{url}: the download has md5 {found}, expected is {md5}; try again later"
            )
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    # urllib's errors are OSErrors, those of a broken HTTP answer are not.
    except (OSError, http.client.HTTPException) as error:
        raise DataError(f"cannot download {url}: {error}") from error
    finally:
        Path(temporary).unlink(missing_ok=True)


def md5_of(path: Path) -> str:
    """MD5 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _fetch(url: str, file: BinaryIO, name: str, progress: bool) -> str:
    """Copies an address into an open file; returns the MD5."""
    digest = hashlib.md5(usedforsecurity=False)
    with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer:
        length = answer.headers.get("Content-Length")
        total = int(length) if length is not None else None
        received = 0
        with tqdm(total=total, unit="B", unit_scale=True, desc=name, disable=not progress) as bar:
            while chunk := answer.read(_CHUNK):
                file.write(chunk)
                digest.update(chunk)
                received += len(chunk)
                bar.update(len(chunk))
    if total is not None and received != total:
        raise OSError(f"the connection ended after {received:,} of {total:,} bytes")
    return digest.hexdigest()
