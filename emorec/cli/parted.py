"""Lists for very many users, in files that processes share and that a stopped command keeps."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from filelock import FileLock

from emorec.cli.common import quick_imports
from emorec.cli.output import write_frames
from emorec.storage.files import make_folder, read_json, write_text
from emorec.storage.folders import read_manifest
from emorec.texts import count

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["process_of_several", "write_parts"]

_ABOUT, _LOCK = "lists.json", ".lock"


def process_of_several() -> tuple[int, int]:
    """The number of this process and how many there are, as torchrun says; (0, 1) without it."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def write_parts(
    folder: Path,
    suffix: str,
    users: list[Any],
    parts: int,
    run: Path,
    options: dict[str, Any],
    files: dict[str, Path | None],
    lists: Callable[[list[Any]], Iterable[pd.DataFrame]],
    texts: dict[str, Any],
) -> None:
    """Writes the lists of users, parted by a hash of their ids, one file after the other.

    Files that are there already are kept, so that a stopped command goes on. Of several processes
    each one writes every n-th file.

    Args:
        folder: The folder.
        suffix: Of the files, which is also their format.
        users: The users' own ids.
        parts: Number of files.
        run: The run folder.
        options: Options that the lists depend on.
        files: Files that they depend on.
        lists: Makes the lists of some users.
        texts: As in `emorec.cli.output.write_frames`.

    Raises:
        click.UsageError: If the folder holds lists of another run or of other options.
    """
    with quick_imports():
        import numpy as np

        from emorec.data.prepared import part_of

    digests = {name: path and _digest(path) for name, path in files.items()}
    about = {"run": read_manifest(run), "parts": parts, "options": options, "files": digests}
    make_folder(folder)
    with FileLock(folder / _LOCK):
        if (folder / _ABOUT).exists():
            if read_json(folder / _ABOUT) != json.loads(json.dumps(about)):
                raise click.UsageError(
                    f"--output {folder} holds lists of another run or with other options; give "
                    "another folder, or remove it"
                )
        # Hidden are the lock, and what a killed process left.
        elif any(not path.name.startswith(".") for path in folder.iterdir()):
            raise click.UsageError(f"--output {folder} is not empty; give a new folder")
        else:
            write_text(folder / _ABOUT, json.dumps(about, indent=1) + "\n")
    rank, size = process_of_several()
    order = np.argsort(part := part_of(users, parts), kind="stable")
    bounds = np.searchsorted(part[order], np.arange(parts + 1))
    written = kept = 0
    for number in range(rank, parts, size):
        own = order[bounds[number] : bounds[number + 1]]
        path = folder / f"part-{number:04}.{suffix}"
        kept += path.exists()
        if len(own) and not path.exists():
            some = [users[place] for place in own]
            write_frames(lists(some), suffix, path, texts)
            written += 1
    already = f"; {kept:,} were there already" if kept else ""
    click.echo(f"{folder}: {count(written, 'file')} written{already}")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
