"""Folders whose files belong together: one writer at a time, and all files or none."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from emorec.storage.files import (
    FileError,
    make_folder,
    read_json,
    require_regular_file,
    sync_file,
    sync_folder,
    write_text,
)

__all__ = ["MANIFEST", "checked_file", "is_unused", "only_writer", "read_manifest", "replace_files"]

MANIFEST = "manifest.json"
_LOCK, _WRITING, _WRITTEN = ".lock", ".writing", ".written"
# What `emorec.storage.files.atomic_path` makes of the files of a run.
_TEMPORARY = re.compile(r"\..+\.(safetensors|json|jsonl|toml|html)\.[a-z0-9_]{8}\.tmp")


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Makes a folder, if need be, and keeps every other process and thread from writing into it.

    The lock belongs to the open file, so the system releases it even if the process is killed.
    A writer that was killed may have left files behind: they are removed, or put in their place if
    they were complete. The same thread may nest this. A new folder that is still empty at the end
    is removed.

    Raises:
        FileError: If another process or thread is writing into it.
        OSError: If the folder cannot be made.
    """
    is_new = not folder.exists()
    make_folder(folder)
    path = folder.resolve() / _LOCK
    lock = FileLock(path, timeout=0, is_singleton=True)
    try:
        lock.acquire()
    except Timeout:
        raise FileError(
            f"{folder} is being written by {_holder(path)}; wait for it or choose another folder"
        ) from None
    try:
        if lock.lock_counter == 1:
            path.write_text(str(os.getpid()), encoding="ascii")
            _clean(folder)
        yield
    finally:
        if lock.lock_counter == 1 and is_unused(folder):
            path.unlink(missing_ok=True)
            if is_new:
                folder.rmdir()
        lock.release()


def is_unused(folder: Path, but_for: str = "") -> bool:
    """Whether a folder holds nothing, or only the lock of `only_writer` and one other name."""
    return all(entry.name in (_LOCK, but_for) for entry in folder.iterdir())


@contextmanager
def replace_files(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    """Replaces several files of a folder at once.

    The new files are written into a folder of their own within ``folder``, with a manifest of their
    digests. Renaming that folder is the one step that counts: before it all old files are in
    place, after it readers take all new ones, even if the process is killed, or the power goes,
    before the last one has been moved. When the block has ended, the new files are on the disk.

    Args:
        folder: The folder; made if need be.
        names: Files that the new ones replace: those that are not written again are removed.

    Yields:
        The folder to write the new files into.

    Raises:
        FileError: If another process or thread is writing into the folder.
        OSError: If the files cannot be written; those that were there before stay.
    """
    with only_writer(folder):
        writing, written = folder / _WRITING, folder / _WRITTEN
        writing.mkdir()
        try:
            yield writing
            files = sorted(writing.iterdir())
            for path in files:  # other libraries do not wait until what they write is on the disk
                sync_file(path)
            digests = {path.name: _sha256(path) for path in files}
            replaced = sorted({*names, *digests})
            manifest: dict[str, Any] = {"sha256": digests, "replaced": replaced}
            manifest["check"] = _check(manifest)
            write_text(writing / MANIFEST, json.dumps(manifest, indent=2) + "\n")
            sync_folder(writing)
            writing.rename(written)
            sync_folder(folder)
        finally:
            shutil.rmtree(writing, ignore_errors=True)
        _put_in_place(folder)


def read_manifest(folder: Path) -> dict[str, str] | None:
    """SHA-256 digests of the files that were written together, by name.

    Returns:
        None if there is no manifest: earlier versions wrote none.

    Raises:
        FileError: If the manifest is damaged.
    """
    path = _newest(folder, MANIFEST)
    if not path.exists() and not path.is_symlink():  # one that leads nowhere is no earlier version
        return None
    return dict(_checked_manifest(path)["sha256"])


def checked_file(folder: Path, name: str) -> Path | None:
    """Returns a file of a folder if it exists and matches the manifest.

    Without a manifest, nothing is checked.

    Raises:
        FileError: If the file is not the one that was written together with the others.
    """
    digests, path = read_manifest(folder), _newest(folder, name)
    is_replaced = (folder / _WRITTEN / MANIFEST).exists() and name not in (digests or {})
    if is_replaced or not path.exists():  # an old file that is about to be removed does not count
        return None
    require_regular_file(path)
    if digests is not None and digests.get(name) != _sha256(path):
        raise FileError(
            f"{path}: is damaged, was changed, or is of another save than the other files (its "
            f"SHA-256 is not that of {MANIFEST}); put the right file back or, if you changed it on "
            f"purpose, remove {MANIFEST}, and nothing is checked"
        )
    return path


def _checked_manifest(path: Path) -> dict[str, Any]:
    """The content of a manifest that `replace_files` wrote.

    Raises:
        FileError: If it is something else.
    """
    manifest = read_json(path)
    if not isinstance(manifest, dict) or manifest.get("check") != _check(manifest):
        raise FileError(f"{path}: is damaged: its content is not what it was when it was written")
    return manifest


def _check(manifest: dict[str, Any]) -> str:
    content = {key: value for key, value in manifest.items() if key != "check"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _newest(folder: Path, name: str) -> Path:
    """Where a file is: among those that were written last, if they are not all moved yet."""
    path = folder / _WRITTEN / name
    return path if path.exists() else folder / name


def _clean(folder: Path) -> None:
    """Removes what a killed writer left unfinished, and completes what it had finished."""
    shutil.rmtree(folder / _WRITING, ignore_errors=True)
    for path in folder.iterdir():
        if _TEMPORARY.fullmatch(path.name) and path.is_file():
            path.unlink()
    _put_in_place(folder)


def _put_in_place(folder: Path) -> None:
    """Moves files that were written together to where they belong, the manifest last."""
    written = folder / _WRITTEN
    manifest = written / MANIFEST
    if manifest.exists():
        content = _checked_manifest(manifest)
        for name in content["replaced"]:
            if (written / name).exists():
                (written / name).replace(folder / name)
            elif name not in content["sha256"]:
                (folder / name).unlink(missing_ok=True)
        for each in (folder, written):  # else the manifest may be on the disk before the others
            sync_folder(each)
        manifest.replace(folder / MANIFEST)
        sync_folder(folder)  # else it may go with the folder that it was in
    if written.is_dir():
        written.rmdir()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _holder(lock: Path) -> str:
    """The process that holds a lock, if its id is readable."""
    try:
        number = lock.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):  # Windows lets nobody read a locked file
        number = ""
    if not number.isdigit():
        return "a process"
    return "this process" if int(number) == os.getpid() else f"process {number}"
