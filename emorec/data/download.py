"""Downloads that either finish or leave nothing behind."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import http.client
import os
import tempfile
import time
import urllib.parse
import urllib.request
import warnings
from pathlib import Path
from typing import IO, BinaryIO

from tqdm import tqdm

from emorec.data.files import DataError
from emorec.storage.files import make_folder, one_line, sync_file, sync_folder, write_text

__all__ = ["download", "md5_of", "recorded_sha256", "sha256_of"]

_CHUNK = 1 << 20  # bytes
_TIMEOUT = 30  # seconds without a byte
_SUFFIX = ".part"  # of unfinished downloads


def download(
    url: str,
    path: Path,
    md5: str | None = None,
    progress: bool = True,
    most: int = 1 << 33,
) -> None:
    """Fetches a file to a temporary name in the same folder and renames it when it is whole.

    Redirections are followed to https only. What a killed process left of the file is removed.

    Args:
        url: The address.
        path: Where the file goes; an existing file is replaced.
        md5: Expected checksum, in hexadecimal. None: there is none, and the file's SHA-256 is
            written beside it, into ``path`` with ``.sha256`` appended, so that changes to the file
            are seen later.
        progress: Whether to show a progress bar.
        most: Largest size that is accepted, in bytes.

    Warns:
        UserWarning: If there is no checksum to compare with.

    Raises:
        DataError: If the address or the folder fails, or the file is cut short, too large or not
            the expected one; then nothing is left behind.
    """
    try:
        make_folder(path.parent)
        _remove_abandoned(path)
        handle, temporary = tempfile.mkstemp(
            prefix=f".{path.name}.", suffix=_SUFFIX, dir=path.parent
        )
    except OSError as error:
        raise DataError(f"cannot write into {path.parent}: {error}") from error
    try:
        with os.fdopen(handle, "wb") as file:
            found_md5, found_sha256 = _fetch(url, file, path.name, progress, most)
        if md5 is not None and found_md5 != md5:
            raise DataError(
                f"{url}: the download has md5 {found_md5}, expected is {md5}; try again later"
            )
        os.chmod(temporary, 0o644)
        sync_file(Path(temporary))
        if md5 is None:
            write_text(recorded_sha256(path), f"{found_sha256}  {path.name}\n")
        os.replace(temporary, path)
        sync_folder(path.parent)
    # urllib's errors are OSErrors; those of a broken answer are not, or ValueErrors.
    except BaseException as error:
        with contextlib.suppress(OSError):  # what went wrong first is what counts
            os.unlink(temporary)
        if isinstance(error, DataError) or not isinstance(
            error, OSError | http.client.HTTPException | ValueError
        ):
            raise
        raise DataError(f"cannot download {url} to {path}: {one_line(error)}") from error
    if md5 is None:
        warnings.warn(
            f"{path}: no checksum is published, so that only https vouches for this file; its "
            f"SHA-256 {found_sha256} is recorded in {recorded_sha256(path).name}",
            stacklevel=2,
        )


def _remove_abandoned(path: Path) -> None:
    """Removes temporary files that no running download writes to: those would have timed out."""
    for temporary in path.parent.glob(f".{glob.escape(path.name)}.*{_SUFFIX}"):
        with contextlib.suppress(FileNotFoundError):  # that download has just ended
            if time.time() - temporary.stat().st_mtime > 2 * _TIMEOUT:
                temporary.unlink()


def recorded_sha256(path: Path) -> Path:
    """Where the SHA-256 of a download without a published checksum is kept."""
    return path.with_name(f"{path.name}.sha256")


def md5_of(path: Path) -> str:
    """MD5 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _ToHttpsOnly(urllib.request.HTTPRedirectHandler):
    """Follows redirections that keep, or gain, the protection of https."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if urllib.parse.urlsplit(newurl).scheme != "https":
            raise DataError(f"{req.full_url} redirects to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_OPENER = urllib.request.build_opener(_ToHttpsOnly)


def _fetch(url: str, file: BinaryIO, name: str, progress: bool, most: int) -> tuple[str, str]:
    """Copies an address into an open file; returns its MD5 and SHA-256."""
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise DataError(f"{url} is not an address of the web; it must start with https://")
    digests = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    with _OPENER.open(url, timeout=_TIMEOUT) as answer:
        length = answer.headers.get("Content-Length")
        total = int(length) if length is not None else None
        if total is not None:
            _require_size(total, most, url)
        received = 0
        with tqdm(total=total, unit="B", unit_scale=True, desc=name, disable=not progress) as bar:
            while chunk := answer.read(_CHUNK):
                received += len(chunk)
                _require_size(received, most, url)
                file.write(chunk)
                for digest in digests:
                    digest.update(chunk)
                bar.update(len(chunk))
    if total is not None and received != total:
        raise OSError(f"the connection ended after {received:,} of {total:,} bytes")
    return digests[0].hexdigest(), digests[1].hexdigest()


def _require_size(size: int, most: int, url: str) -> None:
    if not 0 <= size <= most:
        raise DataError(f"{url}: {size:,} bytes are announced or sent, at most {most:,} are right")
