"""What EmoRec gains from several processes, and what logs of growing size cost.

    python benchmarks/scale_bench.py training --dataset ml-1m --data-dir DATA
    python benchmarks/scale_bench.py preparing --most 1e8
    python benchmarks/scale_bench.py counting --most 1e6

`training` runs the same steps in one process and in several of one thread each, in turn, so that
other work on the machine disturbs both alike; while one process computes, the others wait. An event
is one that a state predicts, or, in the graph's part, one of the users' events. Bytes are those
that a process sends in a step. CPU time is that of the process that needs most; other work disturbs
it less than the time on the clock, and it does not have the waits for the others.

`preparing` runs `emorec data prepare` on csv files of random events, a hundredth as many users, and
a tenth of those as items.

`counting` counts the similar items of random logs, popular items and rare ones, with 20 events per
item and 50 per user, each in a process of its own. As random logs have no similar items, all items
are neighbours of others, which is more to count than in a log of the same size that people made.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import torch
from machine import machine

from emorec.building import build_model
from emorec.config import Config, load_config
from emorec.data.datasets import load_dataset
from emorec.data.interactions import Interactions
from emorec.data.sequences import EventSequences
from emorec.data.splits import split_interactions
from emorec.data.vocabulary import Vocabulary
from emorec.memory import keep_freed_memory, peak_memory_gib
from emorec.processes import ALONE, World, joined
from emorec.storage.files import write_text
from emorec.training.distributed import clip_gradients, sum_gradients
from emorec.training.parts import parts_of
from emorec.training.sharding import ItemShards
from emorec.training.similarity import similar_items

FILE_EVENTS = 10**7  # of a csv file
SETTINGS = {"one process": (), "replicated": (), "sharded": ("training.shard_items=true",)}


@click.group(context_settings={"max_content_width": 100})
def main() -> None:
    """Measures what several processes bring, and what large logs cost."""


@main.command()
@click.option("--most", type=float, default=1e7, show_default=True, help="Events of the last log.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write figures here.")
def preparing(most: float, json_path: Path | None) -> None:
    """CPU seconds, memory and disk of preparing logs of 1e5, 1e6, ... events."""
    rows = []
    events = 10**5
    while events <= most:
        with tempfile.TemporaryDirectory() as folder:
            for number in range(-(-events // FILE_EVENTS)):
                write_events(Path(folder) / f"{number}.csv", min(events, FILE_EVENTS), number)
            prepared = Path(folder) / "log"
            command = [sys.executable, "-m", "emorec", "data", "prepare", f"{folder}/*.csv"]
            process = subprocess.Popen([*command, "--quiet", "--output", str(prepared)])
            _, status, used = os.wait4(process.pid, 0)
            if status:
                raise click.ClickException(f"preparing {events:,} events failed")
            rows.append(
                {
                    "events": events,
                    "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
                    "peak_memory_gib": round(used.ru_maxrss / 2**20, 2),
                    "disk_mib": round(sum(f.stat().st_size for f in prepared.iterdir()) / 2**20),
                }
            )
        click.echo(json.dumps(rows[-1]))
        events *= 10
    if json_path:
        write_text(json_path, json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")


@main.command()
@click.option("--most", type=float, default=1e5, show_default=True, help="Items of the last log.")
@click.option("--similar", default=100, show_default=True, help="Items kept per item.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write figures here.")
def counting(most: float, similar: int, json_path: Path | None) -> None:
    """CPU seconds and memory of the similar items of 1e4, 1e5, ... items."""
    rows = []
    items = 10**4
    while items <= most:
        with tempfile.TemporaryDirectory() as folder:
            found = Path(folder) / "found.json"
            subprocess.run(
                [
                    *(sys.executable, __file__, "counted", "--items", str(items)),
                    *("--similar", str(similar), "--file", str(found)),
                ],
                check=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            rows.append(json.loads(found.read_text()))
        click.echo(json.dumps(rows[-1]))
        items *= 10
    if json_path:
        write_text(json_path, json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")


@main.command(hidden=True)
@click.option("--items", type=int)
@click.option("--similar", type=int)
@click.option("--file", type=click.Path(path_type=Path))
def counted(items: int, similar: int, file: Path) -> None:
    """A process of `counting`."""
    log = random_log(items)
    started, cpu_started = time.perf_counter(), time.process_time()
    found = similar_items(log, similar)
    row = {
        "items": items,
        "events": len(log),
        "users": log.num_users,
        "similarities": found.nnz,
        "seconds": round(time.perf_counter() - started, 1),
        "cpu_seconds": round(time.process_time() - cpu_started, 1),
        "peak_memory_gib": peak_memory_gib(),
    }
    write_text(file, json.dumps(row))


def random_log(items: int) -> Interactions:
    """A log of random events, popular items and rare ones, in the order of their time."""
    rng = np.random.default_rng(items)
    events = 20 * items
    users = events // 50
    return Interactions(
        (users * rng.random(events) ** 1.5).astype(np.int64),
        (items * rng.random(events) ** 3).astype(np.int64),
        rng.integers(0, 4, events, dtype=np.int8),
        np.arange(events),
        Vocabulary(range(users)),
        Vocabulary(range(items)),
    )


def write_events(path: Path, events: int, number: int) -> None:
    """A csv file of random events, popular items and rare ones, in the order of their time."""
    rng = np.random.default_rng(number)
    users, items = events // 100, events // 1000
    frame = pd.DataFrame(
        {
            "user_id": (users * rng.random(events) ** 1.5).astype(np.int64),
            "item_id": (items * rng.random(events) ** 3).astype(np.int64),
            "rating": rng.integers(1, 6, events),
            "timestamp": 1_500_000_000 + 10**6 * number + np.sort(rng.integers(0, 10**6, events)),
        }
    )
    frame.to_csv(path, index=False)


@main.command()
@click.option("--dataset", default="ml-100k", show_default=True)
@click.option("--data-dir", type=click.Path(path_type=Path))
@click.option("--preset", default="emorec", show_default=True)
@click.option("--processes", default=2, show_default=True)
@click.option("--steps", default=20, show_default=True, help="Per measurement.")
@click.option("--rounds", default=7, show_default=True, help="Measurements of each.")
@click.option("--set", "settings", multiple=True)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write figures here.")
def training(
    dataset: str,
    data_dir: Path | None,
    preset: str,
    processes: int,
    steps: int,
    rounds: int,
    settings: tuple[str, ...],
    json_path: Path | None,
) -> None:
    """Events per second of training steps on DATASET, and bytes on the wire."""
    options = [*("--dataset", dataset, "--preset", preset)]
    options += [*("--steps", str(steps), "--rounds", str(rounds))]
    options += [] if data_dir is None else ["--data-dir", str(data_dir.resolve())]
    options += [word for each in settings for word in ("--set", each)]
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "found.json"
        subprocess.run(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
                *("--nproc-per-node", str(processes), __file__, "one"),
                *(*options, "--file", str(found)),
            ],
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
        )
        rows = json.loads(found.read_text())
    click.echo(table(rows))
    if json_path is not None:
        facts = {"machine": machine(processes=str(processes)), "rows": rows}
        write_text(json_path, json.dumps(facts, indent=1) + "\n")


@main.command(hidden=True)
@click.option("--dataset")
@click.option("--data-dir", type=click.Path(path_type=Path))
@click.option("--preset")
@click.option("--steps", type=int)
@click.option("--rounds", type=int)
@click.option("--set", "settings", multiple=True)
@click.option("--file", type=click.Path(path_type=Path))
def one(
    dataset: str,
    data_dir: Path | None,
    preset: str,
    steps: int,
    rounds: int,
    settings: tuple[str, ...],
    file: Path,
) -> None:
    """A process of `training`; the first one writes what was found."""
    torch.set_num_threads(1)
    keep_freed_memory()
    log = split_interactions(load_dataset(dataset, data_dir)).train
    with joined("cpu", 600) as world:
        rows: dict[str, Any] = {}
        trainings = {
            name: Training(
                name, load_config(preset, settings=("loss.horizon=3", *settings, *own)), log, world
            )
            for name, own in SETTINGS.items()
        }
        for part in range(len(trainings["one process"].parts)):
            for number in range(rounds + 1):
                for name, each in trainings.items():
                    world.wait()
                    if each.world is ALONE and not world.is_first:
                        continue
                    events, seconds, sent, cpu = each.run(part, steps)
                    busiest = float(each.world.maximum(torch.tensor([cpu]))[0])
                    if number:  # not the first, which also imports and warms up
                        row = rows.setdefault(f"{each.parts[part].name}, {name}", {"runs": []})
                        row["runs"].append([events, seconds, sent, busiest])
        if world.is_first:
            for name, row in rows.items():
                speeds = [events / seconds for events, seconds, *_ in row["runs"]]
                alone = rows[f"{name.split(',')[0]}, one process"]["runs"]
                clock, cpu = (
                    [a[which] / b[which] for a, b in zip(alone, row["runs"], strict=True)]
                    for which in (1, 3)
                )
                row["events_per_second"] = round(float(np.median(speeds)))
                row["times_one"] = round(float(np.median(clock)), 2)
                row["times_one_by_cpu"] = round(float(np.median(cpu)), 2)
                row["bytes_per_step"] = round(row["runs"][0][2] / steps)
            for row in rows.values():
                del row["runs"]
            write_text(file, json.dumps(rows))


class Training:
    """The steps of a training, of which some are run at a time."""

    def __init__(self, name: str, config: Config, log: Interactions, world: World) -> None:
        self.world = ALONE if name == "one process" else world
        self.model = build_model(config, log.num_users, log.num_items)
        self.shards = None
        if config.training.shard_items:
            self.shards = ItemShards(self.model, log.num_items, self.world)
        events = EventSequences.build(log)
        self.parts = parts_of(self.model, config, events, log, self.world, self.shards)
        self._seed, self._batches = config.training.seed, [self._of(part) for part in self.parts]

    def _of(self, part: Any) -> Iterator[tuple[Any, np.random.Generator]]:
        epoch = 0
        while True:
            epoch += 1
            rng = np.random.default_rng([self._seed, epoch])
            for batch in part.batches(rng):
                yield batch, rng

    def run(self, number: int, steps: int) -> tuple[int, float, int, float]:
        """Runs steps of a part: events, seconds, bytes sent and seconds of CPU."""
        part, batches, sent = self.parts[number], self._batches[number], self.world.bytes_sent
        self.model.train()
        events, started, cpu_started = 0, time.perf_counter(), time.process_time()
        for _ in range(steps):
            batch, rng = next(batches)
            exists = (batch.whole or batch).targets.exists
            events += int(exists.sum() if part.name == "graph" else exists[:, 0].sum())
            loss = part.loss(batch, rng)
            assert loss is not None
            part.optimizer.zero_grad(set_to_none=True)
            if loss.requires_grad:
                loss.backward()
            sum_gradients(self.world, part.parameters(), loss, self.shards)
            clip_gradients(part.parameters(), 1.0, self.shards)
            part.optimizer.step()
            if part.average is not None:
                part.average.update()
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu_started
        return events, seconds, self.world.bytes_sent - sent, cpu


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The figures as Markdown."""
    lines = [
        "| part, processes | events/s | times one process | by CPU time | MB per step |",
        "|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {name} | {row['events_per_second']:,} | {row['times_one']:.2f} | "
        f"{row['times_one_by_cpu']:.2f} | "
        f"{row['bytes_per_step'] / 1e6:.2f} |"
        for name, row in rows.items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
