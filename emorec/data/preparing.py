"""Makes prepared logs of files that do not fit into memory.

Kinds of feedback, times and errors are those of `emorec.data.readers`, which reads the files part
by part. DuckDB numbers the ids, and sorts the events of a part of the users at a time; what does
not fit into its share of the memory is on disk.
"""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from emorec.data.feedback import Feedback
from emorec.data.files import DataError
from emorec.data.interactions import TICKS_PER_DAY
from emorec.data.prepared import LOG, PreparedLog, log_json, part_name, part_of
from emorec.data.readers import RulesLike, columns_to_read, event_rows, load_rules
from emorec.data.staging import Stage
from emorec.data.table_files import read_parts
from emorec.storage.files import one_line, write_text
from emorec.storage.folders import replace_files

__all__ = ["PARTS", "prepare_log"]

PARTS = 64
"""Parts of a prepared log, unless told otherwise."""

_ROWS = 500_000  # that are read at once
_STAGED, _WORK = ".staged", ".work"
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
        parts: Number of parts, by user, which are sorted one after the other.
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
    columns, text = columns_to_read(user, item, time, rating, feedback, chosen)
    files: dict[str, Any] = {"names": names, "encoding": encoding, "decimal": decimal}
    files |= {"text_columns": text, "columns": columns}
    settings = {**reading, **files, "rules": chosen and list(map(str, chosen.rules))}
    old = ["users.parquet", "items.parquet", *(path.name for path in folder.glob("part-*.parquet"))]
    with replace_files(folder, [LOG, *old]) as written:
        stage = Stage.of_sources(folder / _STAGED, settings, [Path(source) for source in sources])
        try:
            for source in stage.missing():
                for table in read_parts(source, _ROWS, **files):
                    stage.add(table, event_rows(table, **reading), user, item)
                    on_rows(len(table.frame))
                stage.complete(source)
        except BaseException:
            if not stage.done:  # nothing is worth keeping
                stage.remove()
            raise
        stage.judge(chosen, are_stars=rules is not None)
        with _database(folder / _WORK, memory_gb, threads) as database:
            about = _write(database, stage, folder / _WORK, written, parts)
        write_text(written / LOG, log_json(about))
    stage.remove()
    return about


@contextmanager
def _database(work: Path, memory_gb: float, threads: int) -> Iterator[Any]:
    """DuckDB, which keeps what does not fit into memory in a folder.

    Raises:
        DataError: If it is not installed, or memory or disk are full.
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


def _write(database: Any, stage: Stage, work: Path, written: Path, parts: int) -> PreparedLog:
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


def _write_ids(path: Path, ids: Any, stage: Stage, name: str, **more: np.ndarray) -> None:
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
