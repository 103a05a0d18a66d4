"""Prepared logs: events of users, sorted and parted into parquet files, with ids as numbers.

`emorec.data.preparing` makes a folder of them from files that need not fit into memory:

    manifest.json         digests of the files
    log.json              number of parts and of events, unit of times, what was dropped
    users.parquet         id, the user's own id, and rows, the number of the user's events
    items.parquet         id
    part-0000.parquet     user, item, feedback, time, row: the events of the users whose ids hash
    ...                   there, sorted by user and time; row is the event's place in the log

A user's or item's index is its place in users.parquet or items.parquet, by first appearance.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from emorec.data.feedback import Feedback
from emorec.data.files import DataError
from emorec.data.interactions import Interactions
from emorec.data.readers import ReadReport
from emorec.data.vocabulary import Vocabulary
from emorec.storage.files import FileError, read_json
from emorec.storage.folders import checked_file

__all__ = ["LOG", "PreparedLog", "is_prepared", "part_name", "part_of", "read_prepared"]

LOG = "log.json"
_COLUMNS = ("user", "item", "feedback", "time", "row")


class PreparedLog(NamedTuple):
    """What log.json holds, see `emorec.data.readers.ReadReport`."""

    parts: int
    source: str
    rows_read: int
    dropped: dict[str, int]
    feedback: list[int]
    unused_rules: list[str]
    time_unit: Any
    time_note: str

    @property
    def report(self) -> ReadReport:
        """How the log was read."""
        kinds = {kind: self.feedback[kind] for kind in Feedback}
        return ReadReport(
            self.source,
            self.rows_read,
            sum(self.feedback),
            self.dropped,
            kinds,
            tuple(self.unused_rules),
            self.time_unit,
            self.time_note,
        )


def part_name(number: int) -> str:
    """Name of a part's file."""
    return f"part-{number:04}.parquet"


def part_of(ids: Any, parts: int) -> np.ndarray:
    """The part of each user by a hash of the own id alone, int64 ``[N]`` in ``0 .. parts - 1``."""
    text = pd.Index(ids, dtype=object).astype(str).to_numpy(object)
    hashed = pd.util.hash_array(text, categorize=False)
    return (hashed % np.uint64(parts)).astype(np.int64)


def is_prepared(source: Any) -> bool:
    """Whether a source names the folder of a prepared log."""
    return isinstance(source, str | Path) and (Path(source) / LOG).is_file()


def read_prepared(folder: str | Path) -> tuple[Interactions, ReadReport]:
    """Reads a prepared log.

    Returns:
        The events in the order of the log, and how it was read.

    Raises:
        DataError: If a file is missing or damaged.
    """
    folder = Path(folder)
    try:
        about = PreparedLog(**read_json(_file(folder, LOG)))
    except (TypeError, FileError) as error:
        raise DataError(f"{folder / LOG}: not that of a prepared log ({error})") from error
    parts = [_read(folder, part_name(number)) for number in range(about.parts)]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in _COLUMNS}
    order = np.argsort(columns.pop("row"))
    users, items = (
        Vocabulary(_read(folder, f"{name}.parquet")["id"]) for name in ("users", "items")
    )
    log = Interactions(
        **{name: values[order] for name, values in columns.items()},
        users=users,
        items=items,
        time_unit=about.time_unit,
    )
    return log, about.report


def _file(folder: Path, name: str) -> Path:
    try:
        path = checked_file(folder, name)
    except FileError as error:
        raise DataError(str(error)) from error
    if path is None:
        raise DataError(f"{folder / name} is missing; prepare the log again")
    return path


def _read(folder: Path, name: str) -> dict[str, np.ndarray]:
    path = _file(folder, name)
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise DataError(
            f"{path}: a prepared log needs pyarrow: pip install 'emorec[large]'"
        ) from error
    table = parquet.read_table(path, memory_map=True)
    return {column: table[column].to_numpy() for column in table.column_names}


def log_json(about: PreparedLog) -> str:
    """The content of log.json."""
    return json.dumps(about._asdict(), indent=2) + "\n"
