"""What reading a log costs, and splitting it.

    python benchmarks/data_bench.py --events 2e7
    python benchmarks/data_bench.py --events 2e7 --ids text

write a random log as csv and as parquet, with a hundredth as many users as events, a fifth of those
as items, stars from 1 to 5 and times. A process for each format, on one thread, reads it with
`read_interactions` and splits it with `split_interactions`: seconds, CPU seconds, and the most
memory that the process has held so far, with 0.3 GiB of libraries. A digest of all that was read
and split shows whether two versions of the code find the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import numpy as np
import pandas as pd
from machine import machine

from emorec.data.interactions import Interactions
from emorec.data.readers import read_interactions
from emorec.data.splits import split_interactions
from emorec.memory import peak_memory_gib
from emorec.storage.files import write_text

ROWS_AT_ONCE = 10**6
FORMATS = ("csv", "parquet")
IDS = ("numbers", "text")
T = TypeVar("T")


@click.group(invoke_without_command=True, context_settings={"max_content_width": 100})
@click.option("--events", type=float, default=2e6, show_default=True)
@click.option("--ids", type=click.Choice(IDS), default="numbers", show_default=True)
@click.option("--format", "formats", multiple=True, default=FORMATS, show_default=True)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write figures here.")
@click.pass_context
def main(
    context: click.Context,
    events: float,
    ids: str,
    formats: tuple[str, ...],
    json_path: Path | None,
) -> None:
    """Seconds, CPU seconds and memory of reading and splitting a log of EVENTS events."""
    if context.invoked_subcommand is not None:
        return
    rows: list[dict[str, Any]] = []
    click.echo("| format | stage | s | CPU s | peak GiB |\n|---|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        for name in formats:
            path = Path(folder) / f"log.{name}"
            write_log(path, int(events), ids == "text")
            command = [sys.executable, __file__, "one", str(path)]
            run = subprocess.run(
                command,
                check=True,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            path.unlink()
            found = json.loads(run.stdout.splitlines()[-1])
            rows.append({"format": name, "ids": ids, "events": int(events), **found})
            for stage in found["stages"]:
                click.echo(
                    f"| {name} | {stage['stage']} | {stage['seconds']:.1f} | "
                    f"{stage['cpu_seconds']:.1f} | {stage['peak_memory_gib']:.2f} |"
                )
            click.echo(f"{name}: digest {found['digest']}", err=True)
    if json_path:
        write_text(json_path, json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")


@main.command(hidden=True)
@click.argument("path", type=click.Path(path_type=Path))
def one(path: Path) -> None:
    """Reads and splits one log, and prints the figures as JSON."""
    try:
        import pyarrow

        pyarrow.set_cpu_count(1)
        pyarrow.set_io_thread_count(1)
    except ImportError:
        pass
    stages: list[dict[str, Any]] = [{"stage": "libraries", **figures(0.0, 0.0)}]
    log, report = measured(stages, "reading", lambda: read_interactions(path))
    split = measured(stages, "splitting", lambda: split_interactions(log))
    digest = hashlib.sha256(f"{report.rows_kept}{report.dropped}{split.report}".encode())
    for part in (log, split.train, split.valid, split.test):
        add(digest, part)
    click.echo(json.dumps({"stages": stages[1:], "digest": digest.hexdigest()[:16]}))


def measured(stages: list[dict[str, Any]], stage: str, act: Callable[[], T]) -> T:
    """Does something, and appends what it cost."""
    started, cpu_started = time.perf_counter(), time.process_time()
    result = act()
    spent = figures(time.perf_counter() - started, time.process_time() - cpu_started)
    stages.append({"stage": stage, **spent})
    return result


def figures(seconds: float, cpu_seconds: float) -> dict[str, Any]:
    """What a stage cost."""
    return {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu_seconds, 2),
        "peak_memory_gib": peak_memory_gib(),
    }


def add(digest: Any, log: Interactions) -> None:
    """Adds the columns and the ids of a log to a digest."""
    for column in (log.user, log.item, log.feedback, log.time):
        digest.update(np.ascontiguousarray(column).tobytes())
    for vocabulary in (log.users, log.items):
        digest.update(json.dumps(vocabulary.ids).encode())


def write_log(path: Path, events: int, as_text: bool) -> None:
    """Writes random events in the order of their time; a few of them twice."""
    users, items = max(events // 100, 2), max(events // 500, 2)
    parts = [
        random_rows(number, min(ROWS_AT_ONCE, events - first), users, items, as_text)
        for number, first in enumerate(range(0, events, ROWS_AT_ONCE))
    ]
    frame = pd.concat(parts, ignore_index=True)
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_parquet(path, index=False)


def random_rows(number: int, rows: int, users: int, items: int, as_text: bool) -> pd.DataFrame:
    """A part of a log, with popular items and rare ones."""
    rng = np.random.default_rng(number)
    columns: dict[str, Any] = {
        "user_id": (users * rng.random(rows) ** 1.5).astype(np.int64),
        "item_id": (items * rng.random(rows) ** 3).astype(np.int64),
        "rating": rng.integers(1, 6, rows),
        "timestamp": 1_500_000_000 + 10**6 * number + np.sort(rng.integers(0, 10**6, rows)),
    }
    frame = pd.DataFrame(columns)
    frame.iloc[rows // 2 : rows // 2 + rows // 1000] = frame.iloc[: rows // 1000]
    if as_text:
        for name, letter in (("user_id", "u"), ("item_id", "i")):
            own = np.array([f"{letter}-{index:08d}" for index in range(max(users, items))])
            frame[name] = own[frame[name]]
    return frame


if __name__ == "__main__":
    main()
