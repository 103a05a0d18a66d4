"""Rows of files that are being prepared, as parquet files, and what is known of them."""

from __future__ import annotations

import importlib
import json
import shutil
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from emorec.data.files import DataError
from emorec.data.interactions import TICKS_PER_DAY, TimeUnit
from emorec.data.readers import EventRows, fit_ids
from emorec.data.rules import STARS, FeedbackRules, NoRuleMatches
from emorec.data.scales import require_stars
from emorec.data.tables import Table
from emorec.data.times import UNIT_NAMES, no_times
from emorec.storage.files import sync_file, sync_folder, write_text
from emorec.texts import count

__all__ = ["Stage"]

_JUDGED = 10_000_000  # ratings by which it is decided whether they are stars
_STATE = "state.json"
_NOT_KEPT = ("folder", "sources")


@dataclass
class Stage:
    """The rows of files that were read, as parquet files in a folder, and what is known of them.

    Attributes:
        folder: The folder.
        sources: The files to read.
        of: The options, as text.
        done: Path, size and time of change of each file that was read.
        staged: Name of each parquet file, and the unit of its times.
        rows_read: Rows that were read.
        rows: Rows that became events.
        dropped: Rows that did not, by reason.
        unused: Rules that matched no row so far; None before the first row.
        unit: The finest unit of times of all parts.
        read_as: How times were read; "" before the first row.
        span: The first and the last time, in days.
        are_numbers: Whether the ids of users and of items are numbers.
        from_text: Whether ids are text only because the files have no types.
        stars: How often there was each rating.
        start: The first rows that rules were applied to.
    """

    folder: Path
    sources: list[Path]
    of: str
    done: list[list[Any]] = field(default_factory=list)
    staged: list[tuple[str, TimeUnit]] = field(default_factory=list)
    rows_read: int = 0
    rows: int = 0
    dropped: dict[str, int] = field(default_factory=lambda: {"not rated": 0, "no rule matches": 0})
    unused: list[str] | None = None
    unit: TimeUnit = "none"
    read_as: str = ""
    span: list[int] = field(default_factory=list)
    are_numbers: dict[str, bool] = field(default_factory=dict)
    from_text: bool = True
    stars: dict[float, int] = field(default_factory=dict)
    start: dict[str, list[Any]] = field(default_factory=dict)

    @classmethod
    def of_sources(cls, folder: Path, settings: dict[str, Any], sources: list[Path]) -> Stage:
        """The stage of a call that was killed, if it was to read the same files, or a new one."""
        fresh = cls(folder, sources, json.dumps(settings, sort_keys=True, default=str))
        state = folder / _STATE
        if state.is_file():
            known = json.loads(state.read_text(encoding="utf-8"))
            known["stars"] = {float(stars): number for stars, number in known["stars"].items()}
            is_same = known.pop("of") == fresh.of and known["done"] == [
                _identity(source) for source in sources[: len(known["done"])]
            ]
            if is_same:
                return replace(fresh, **known)
        fresh.remove()
        folder.mkdir()
        return fresh

    def remove(self) -> None:
        """Removes the folder; its state goes first, so that it never names files that are gone."""
        (self.folder / _STATE).unlink(missing_ok=True)
        if self.folder.is_dir():
            sync_folder(self.folder)
            shutil.rmtree(self.folder)

    def missing(self) -> list[Path]:
        """The files that were not read yet."""
        return self.sources[len(self.done) :]

    def add(self, table: Table, rows: EventRows, user: str, item: str) -> None:
        """Writes the rows of a part of a file that are events.

        Raises:
            DataError: If an id cannot be kept, or times or ids differ in kind from those before.
        """
        pa, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
        kinds = rows.match.feedback
        matched = np.flatnonzero(kinds >= 0)
        ids = {
            name: self._ids(table, name, column, values, matched)
            for name, column, values in (("user", user, rows.user), ("item", item, rows.item))
        }
        self._note(table, rows)
        name = f"{len(self.done):04}-{len(self.staged):06}.parquet"
        content = {
            **{
                name: pa.DictionaryArray.from_arrays(index, text)
                for name, (index, text) in ids.items()
            },
            "feedback": kinds[matched],
            "time": rows.times.values[matched],
            "row": self.rows + np.arange(len(matched)),
        }
        if len(matched):
            parquet.write_table(pa.table(content), self.folder / name)
            self.staged.append((name, rows.times.unit))
        self.rows += len(matched)

    def complete(self, source: Path) -> None:
        """Notes that a file was read, so that it need not be read again."""
        own = f"{len(self.done):04}-"
        for name, _ in self.staged:
            if name.startswith(own):
                sync_file(self.folder / name)
        sync_folder(self.folder)
        self.done.append(_identity(source))
        known = {name: value for name, value in vars(self).items() if name not in _NOT_KEPT}
        write_text(self.folder / _STATE, json.dumps(known, default=str))

    def judge(self, rules: FeedbackRules | None, are_stars: bool) -> None:
        """Checks the log as a whole, as `read_interactions` does."""
        source = " + ".join(map(str, self.sources))
        if rules is None:
            return
        if rules.name == STARS and self.stars:
            values, counts = np.array(list(self.stars)), np.array(list(self.stars.values()))
            share = max(1.0, counts.sum() / _JUDGED)
            ratings = np.repeat(values, np.ceil(counts / share).astype(np.int64))
            require_stars(ratings, source, is_certain=are_stars)
        if not self.rows:
            counts_text = f"{count(self.rows_read, 'row')}, {self.dropped['not rated']:,} of them"
            raise NoRuleMatches(
                f"{source} ({counts_text} not rated): "
                f"{rules.nothing_matches(pd.DataFrame(self.start), self.rows_read)}"
            )
        for rule in self.unused or ():
            warnings.warn(f"{rules.name}: this rule matches no row: {rule}", stacklevel=3)

    @property
    def time_note(self) -> str:
        """How the times were read, and the period that they cover."""
        if self.unit == "none":
            return no_times(0, "file").note
        name = UNIT_NAMES[self.unit]
        kept = "" if name in self.read_as else f", kept as {name}"
        first, last = (np.datetime64(day, "D") for day in self.span)
        return f"{self.read_as}{kept}: {first} to {last} (UTC)"

    def _ids(
        self, table: Table, name: str, column: str, ids: pd.Series, matched: np.ndarray
    ) -> tuple[np.ndarray, list[str]]:
        """The index of each id among the distinct ones of the part, and those as text."""
        vocabulary, index = fit_ids(table, column, ids, matched)
        found = vocabulary.ids
        are_numbers = {isinstance(each, int) for each in found}
        if name in self.are_numbers:
            are_numbers.add(self.are_numbers[name])
        if len(are_numbers) > 1:
            raise DataError(
                f"{table.place(0)} and after, column {column!r}: some ids are numbers and others "
                "text; write all of them in one way"
            )
        if are_numbers:
            self.are_numbers[name] = are_numbers.pop()
        return index.astype(np.int32), list(map(str, found))

    def _note(self, table: Table, rows: EventRows) -> None:
        unmatched = rows.match.feedback < 0
        self.rows_read += len(table.frame)
        self.dropped["not rated"] += int((unmatched & ~rows.rated).sum())
        self.dropped["no rule matches"] += int((unmatched & rows.rated).sum())
        self.unit = max(self.unit, rows.times.unit, key=TICKS_PER_DAY.__getitem__)
        unused = [str(rule) for rule in rows.match.unused]
        self.unused = unused if self.unused is None else [r for r in self.unused if r in unused]
        self.from_text &= table.from_text
        if rows.stars is not None:
            for value, number in zip(*np.unique(rows.stars, return_counts=True), strict=True):
                if np.isfinite(value):
                    self.stars[float(value)] = self.stars.get(float(value), 0) + int(number)
        if not self.start:
            self.start = {str(c): v.tolist() for c, v in rows.judged.head(3).items()}
        times = rows.times
        if times.unit == "none":
            return
        read_as = times.note.rpartition(": ")[0].partition(", kept as")[0]
        if self.read_as not in ("", read_as):
            raise DataError(
                f"{table.place(0)} and after: {read_as}, but before: {self.read_as}; use one unit, "
                f"or {table.remedy('time_unit', times.unit)} if that is the unit of all"
            )
        self.read_as = read_as
        days = [int(each) // TICKS_PER_DAY[times.unit] for each in _ends(times.values)]
        self.span = list(_ends(np.array([*self.span, *days])))


def _ends(values: np.ndarray) -> tuple[int, int]:
    return int(values.min()), int(values.max())


def _identity(source: Path) -> list[Any]:
    found = source.stat()
    return [str(source.resolve()), found.st_size, found.st_mtime_ns]
