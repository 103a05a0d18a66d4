"""Makes prepared logs of files that do not fit into memory.

Kinds of feedback, times and errors are those of `emorec.data.readers`, which reads the files part
by part. DuckDB numbers the ids, and sorts the events of a part of the users at a time; what does
not fit into its share of the memory is on disk.
"""

from __future__ import annotations

import importlib
import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from emorec.data.feedback import Feedback
from emorec.data.files import DataError
from emorec.data.interactions import TICKS_PER_DAY, TimeUnit
from emorec.data.prepared import LOG, PreparedLog, log_json, part_name, part_of
from emorec.data.readers import EventRows, RulesLike, event_rows, load_rules
from emorec.data.rules import STARS, FeedbackRules, NoRuleMatches
from emorec.data.scales import require_stars
from emorec.data.table_files import read_parts
from emorec.data.tables import Table
from emorec.data.times import UNIT_NAMES, no_times
from emorec.data.vocabulary import IdError, Vocabulary
from emorec.storage.files import one_line, write_text
from emorec.storage.folders import replace_files
from emorec.texts import count

__all__ = ["PARTS", "prepare_log"]

PARTS = 64
"""Parts of a prepared log, unless told otherwise."""

_ROWS = 500_000  # that are read at once
_JUDGED = 10_000_000  # ratings by which it is decided whether they are stars
_STAGED, _WORK, _STATE = ".staged", ".work", "state.json"
_NOT_KEPT = ("folder", "sources")
_NOTHING = '(SELECT 0 AS "user", 0 AS item, 0 AS feedback, 0 AS time, 0 AS row WHERE false)'
_DIGITS = r"0|-?[1-9][0-9]{0,17}"  # of ids that are numbers, as in `emorec.data.readers`


def prepare_log(
    sources: Sequence[str | Path],
    folder: str | Path,
    *,
    user: str = "user_id",
    item: str = "item_id",
    time: str = "timestamp",
    rating: str = "rating",
    feedback: str | None = None,
    rules: RulesLike | None = None,
    time_unit: Any = "auto",
    time_format: str | None = None,
    order: str = "file",
    names: list[str] | None = None,
    encoding: str = "utf-8",
    decimal: str = ".",
    parts: int = PARTS,
    memory_gb: float = 2.0,
    threads: int = 1,
    on_rows: Callable[[int], None] = lambda rows: None,
) -> PreparedLog:
    """Reads files into a prepared log, in bounded memory.

    The result is that of `emorec.data.readers.read_interactions` for all files one after the other.
    A call that was killed leaves the folder as it was; the next one goes on with the files that
    were not read yet, if it is given the same files and options.

    Args:
        sources: csv, tsv, JSON lines or parquet files of the same columns.
        folder: The folder; what an earlier call made there is replaced whole.
        user: As in `read_interactions`, like all others but the last four.
        item: As there.
        time: As there.
        rating: As there.
        feedback: As there.
        rules: As there.
        time_unit: As there.
        time_format: As there.
        order: "file"; a random order is not kept.
        names: As there.
        encoding: As there.
        decimal: As there.
        parts: Number of parts, a multiple of the number of processes that will share the log.
        memory_gb: Memory for DuckDB, in GB; reading takes about 1 GB more.
        threads: Threads for DuckDB.
        on_rows: Called with the number of rows of each part of a file that was read.

    Raises:
        DataError: If a file cannot be read, or DuckDB or pyarrow is not installed.
        ValueError: If the rules are wrong or match no row.
    """
    if order != "file":
        raise ValueError("data.order must be 'file': a prepared log keeps the order of its rows")
    if not sources:
        raise ValueError("there is no file to prepare")
    folder = Path(folder)
    chosen = None if feedback is not None else load_rules("ratings" if rules is None else rules)
    reading: dict[str, Any] = {"user": user, "item": item, "time": time, "rating": rating}
    reading |= {"feedback": feedback, "rules": chosen}
    reading |= {"time_unit": time_unit, "time_format": time_format}
    columns, text = _columns(user, item, time, rating, feedback, chosen)
    files: dict[str, Any] = {"names": names, "encoding": encoding, "decimal": decimal}
    files |= {"text_columns": text, "columns": columns}
    settings = {**reading, **files, "rules": chosen and list(map(str, chosen.rules))}
    old = ["users.parquet", "items.parquet", *(path.name for path in folder.glob("part-*.parquet"))]
    with replace_files(folder, [LOG, *old]) as written:
        stage = _Stage.of_sources(folder / _STAGED, settings, [Path(source) for source in sources])
        try:
            for source in stage.missing():
                for table in read_parts(source, _ROWS, **files):
                    stage.add(table, event_rows(table, **reading), user, item)
                    on_rows(len(table.frame))
                stage.complete(source)
        except BaseException:
            if not stage.done:  # nothing is worth keeping
                shutil.rmtree(stage.folder)
            raise
        stage.judge(chosen, are_stars=rules is not None)
        with _database(folder / _WORK, memory_gb, threads) as database:
            about = _write(database, stage, folder / _WORK, written, parts)
        write_text(written / LOG, log_json(about))
    shutil.rmtree(folder / _STAGED)
    return about


def _columns(
    user: str,
    item: str,
    time: str,
    rating: str,
    feedback: str | None,
    rules: FeedbackRules | None,
) -> tuple[list[str], list[str]]:
    """The columns to read, and those of them that are text to the letter."""
    named = {"rating": rating}
    asked = {user, item} | ({time} if time else set()) | ({feedback} if feedback else set())
    text = [user, item]
    if rules is not None:
        asked |= {named.get(column, column) for column in rules.columns}
        text += [named.get(column, column) for column in rules.text_columns]
    return sorted(asked), text


@dataclass
class _Stage:
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
    def of_sources(cls, folder: Path, settings: dict[str, Any], sources: list[Path]) -> _Stage:
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
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return fresh

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
        self.done.append(_identity(source))
        known = {name: value for name, value in vars(self).items() if name not in _NOT_KEPT}
        write_text(self.folder / _STATE, json.dumps(known, default=_plain))

    def judge(self, rules: FeedbackRules | None, are_stars: bool) -> None:
        """Checks the log as a whole, as `read_interactions` does."""
        source = " + ".join(map(str, self.sources))
        if not self.rows_read:
            raise DataError(f"{source} has no rows; one row per interaction is expected")
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
        try:
            vocabulary, index = Vocabulary.fit(ids.iloc[matched])
        except IdError as error:
            place = table.place(int(matched[error.row]))
            raise DataError(f"{place}, column {column!r}: {error.reason}") from error
        except ValueError as error:
            raise DataError(f"{table.source}, column {column!r}: {error}") from error
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


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else str(value)


@contextmanager
def _database(work: Path, memory_gb: float, threads: int) -> Iterator[Any]:
    """DuckDB, which keeps what does not fit into memory in a folder.

    Raises:
        DataError: If it is not installed, or fails for want of space.
    """
    try:
        duckdb = importlib.import_module("duckdb")
    except ImportError as error:
        raise DataError("preparing a log needs DuckDB: pip install 'emorec[large]'") from error
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        with duckdb.connect() as database:
            database.execute(f"SET memory_limit = '{memory_gb:g}GB'")
            database.execute(f"SET threads = {threads:d}")
            database.execute("SET temp_directory = ?", [str(work)])
            database.execute("SET preserve_insertion_order = false")
            yield database
    except (duckdb.IOException, duckdb.OutOfMemoryException) as error:
        raise DataError(f"the log cannot be sorted: {one_line(error)}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _write(database: Any, stage: _Stage, work: Path, written: Path, parts: int) -> PreparedLog:
    """Numbers the ids, and writes the files of the prepared log."""
    for unit in {unit for _, unit in stage.staged}:
        files = [str(stage.folder / name) for name, own in stage.staged if own == unit]
        factor = TICKS_PER_DAY[stage.unit] // TICKS_PER_DAY[unit]
        database.execute(
            f'CREATE VIEW staged_{unit} AS SELECT "user", item, feedback, time * {factor} AS time, '
            f"row FROM read_parquet({_sql_list(files)})"
        )
    units = sorted({unit for _, unit in stage.staged})
    every = " UNION ALL ".join(f"SELECT * FROM staged_{unit}" for unit in units)
    database.execute(f"CREATE VIEW staged AS {every}")
    ids = {name: _numbered(database, name, parts) for name in ("user", "item")}
    database.execute(
        'COPY (SELECT u.index AS "user", i.index AS item, feedback, time, row, u.part AS part '
        'FROM staged JOIN users u ON staged."user" = u.id JOIN items i ON staged.item = i.id) '
        f"TO '{_quoted(work / 'parts')}' (FORMAT parquet, PARTITION_BY (part))"
    )
    # Without times, two rows of the same words may be two events.
    what, group = "row", ""
    if stage.unit != "none":
        what, group = "min(row) AS row", 'GROUP BY "user", item, feedback, time'
    kinds, events = np.zeros(len(Feedback), dtype=np.int64), np.zeros(len(ids["user"]), np.int64)
    for part in range(parts):
        target, own = written / part_name(part), work / "parts" / f"part={part}"
        source = f"read_parquet('{_quoted(own)}/*.parquet')" if own.exists() else _NOTHING
        database.execute(
            'COPY (SELECT "user"::INTEGER AS "user", item::INTEGER AS item, '
            f"feedback::TINYINT AS feedback, time::BIGINT AS time, {what} FROM {source} {group} "
            f"ORDER BY 1, 4, 5) TO '{_quoted(target)}' (FORMAT parquet)"
        )
        found = database.execute(f"SELECT feedback, \"user\" FROM '{_quoted(target)}'").fetchnumpy()
        kinds += np.bincount(found["feedback"], minlength=len(Feedback))
        events += np.bincount(found["user"], minlength=len(events))
    _write_ids(written / "users.parquet", ids["user"], stage, "user", rows=events)
    _write_ids(written / "items.parquet", ids["item"], stage, "item")
    dropped = {**stage.dropped, "duplicate": stage.rows - int(kinds.sum())}
    return PreparedLog(
        parts,
        " + ".join(map(str, stage.sources)),
        stage.rows_read,
        dropped,
        kinds.tolist(),
        stage.unused or [],
        stage.unit,
        stage.time_note,
    )


def _numbered(database: Any, name: str, parts: int) -> Any:
    """The distinct ids of a column in order of appearance; a table with their index and part."""
    pa = importlib.import_module("pyarrow")
    query = f'SELECT "{name}" AS id FROM staged GROUP BY 1 ORDER BY min(row)'
    ids = database.sql(query).to_arrow_table()["id"]
    columns = {"id": ids, "index": np.arange(len(ids), dtype=np.int32)}
    if name == "user":
        columns["part"] = part_of(ids.to_pandas(), parts).astype(np.int32)
    database.register("numbered", pa.table(columns))
    database.execute(f"CREATE TABLE {name}s AS SELECT * FROM numbered")
    database.unregister("numbered")
    return ids


def _write_ids(path: Path, ids: Any, stage: _Stage, name: str, **more: np.ndarray) -> None:
    pa, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    compute = importlib.import_module("pyarrow.compute")
    # No leading zeros or signs of plus, and few enough digits for int64.
    digits = stage.from_text and compute.all(compute.match_substring_regex(ids, f"^({_DIGITS})$"))
    if stage.are_numbers[name] or (digits and digits.as_py()):
        ids = compute.cast(ids, pa.int64())
    parquet.write_table(pa.table({"id": ids, **more}), path)


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")


def _sql_list(files: Sequence[str]) -> str:
    return "[" + ", ".join("'" + each.replace("'", "''") + "'" for each in files) + "]"
