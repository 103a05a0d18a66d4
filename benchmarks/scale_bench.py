"""What EmoRec gains from several processes.

    python benchmarks/scale_bench.py training --dataset ml-1m --data-dir DATA \
        [--environments ENVIRONMENTS]
    python benchmarks/scale_bench.py memory

`training` runs the same steps in one process and in several of one thread each, in turn, so that
other work on the machine disturbs both alike; while one process computes, the others wait. An event
is one that a state predicts, or, in the graph's part, one of the users' events. Bytes are those
that a process sends in a step. CPU time is that of the process that needs most; other work disturbs
it less than the time on the clock, and it does not have the waits for the others.

`memory` is the peak of each process that trains on a random log of 20,000 items, of which the first
one holds all events and each other those of its own users.

With ENVIRONMENTS, a folder that ``peers/setup.sh`` filled, RecTools' SASRec is measured, too, which
Lightning's DDP divides over processes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from growth_bench import random_log
from machine import machine
from peer_lists import task_of

from emorec.building import build_model
from emorec.config import Config, load_config
from emorec.data.datasets import load_dataset
from emorec.data.interactions import Interactions
from emorec.data.sequences import EventSequences
from emorec.data.splits import split_interactions
from emorec.memory import keep_freed_memory, peak_memory_gib
from emorec.processes import ALONE, World, joined
from emorec.storage.files import write_text
from emorec.training.distributed import clip_gradients, sum_gradients
from emorec.training.parts import parts_of
from emorec.training.sharding import ItemShards
from emorec.training.shares import shared_split

PEER_ROUNDS = 3
HELD_ITEMS = 20_000
HELD = {  # models so small that the events are most of the memory
    "emorec": ("graph.conv=none", "graph.paths=0", "graph.signed=false", "sequence.max_length=50"),
    "emorec-graph": ("graph.paths=0", "graph.size=16"),
}
SETTINGS = {"one process": (), "replicated": (), "sharded": ("training.shard_items=true",)}


@click.group(context_settings={"max_content_width": 100})
def main() -> None:
    """Measures what several processes bring."""


@main.command()
@click.option("--dataset", default="ml-100k", show_default=True)
@click.option("--data-dir", type=click.Path(path_type=Path))
@click.option("--preset", default="emorec", show_default=True)
@click.option("--processes", default=2, show_default=True)
@click.option("--steps", default=20, show_default=True, help="Per measurement.")
@click.option("--rounds", default=7, show_default=True, help="Measurements of each.")
@click.option("--set", "settings", multiple=True)
@click.option(
    "--environments",
    type=click.Path(path_type=Path, exists=True),
    help="Folder that peers/setup.sh filled, to measure a peer as well.",
)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write figures here.")
def training(
    dataset: str,
    data_dir: Path | None,
    preset: str,
    processes: int,
    steps: int,
    rounds: int,
    settings: tuple[str, ...],
    environments: Path | None,
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
    if environments is not None:
        log = split_interactions(load_dataset(dataset, data_dir)).train
        rows |= peer_rows(environments, log, processes, steps)
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
                by_clock, by_cpu = (
                    [a[which] / b[which] for a, b in zip(alone, row["runs"], strict=True)]
                    for which in (1, 3)
                )
                row["events_per_second"] = round(float(np.median(speeds)))
                row["times_one"] = round(float(np.median(by_clock)), 2)
                row["times_one_by_cpu"] = round(float(np.median(by_cpu)), 2)
                row["bytes_per_step"] = round(row["runs"][0][2] / steps)
            for row in rows.values():
                del row["runs"]
            write_text(file, json.dumps(rows))


@main.command()
@click.option("--events", default=5_000_000, show_default=True)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write figures here.")
def memory(events: int, json_path: Path | None) -> None:
    """Peak memory of processes that hold their own users' events, up to the third step."""
    rows = []
    for preset in HELD:
        for processes in (1, 2, 4):
            with tempfile.TemporaryDirectory() as folder:
                found = Path(folder) / "found.json"
                subprocess.run(
                    [
                        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
                        *("--nproc-per-node", str(processes), __file__, "held"),
                        *("--preset", preset, "--events", str(events), "--file", str(found)),
                    ],
                    check=True,
                    env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
                )
                peaks = json.loads(found.read_text())
            rows.append({"preset": preset, "processes": processes, "peak_memory_gib": peaks})
            click.echo(json.dumps(rows[-1]))
    if json_path is not None:
        write_text(json_path, json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")


@main.command(hidden=True)
@click.option("--preset")
@click.option("--events", type=int)
@click.option("--file", type=click.Path(path_type=Path))
def held(preset: str, events: int, file: Path) -> None:
    """A process of `memory`; the first one makes the log and writes what was found."""
    torch.set_num_threads(1)
    config = load_config(preset, settings=("loss.horizon=3", *HELD[preset]))
    with joined("cpu", 600) as world:
        split = None
        if world.is_first:
            log = random_log(events // 100, 100, HELD_ITEMS)
            split = split_interactions(log, **config.split.rule)
        training = Training("replicated", config, shared_split(split, world).train, world)
        training.run(0, 3)
        peaks = torch.cat(world.gather(torch.tensor([peak_memory_gib()])))
        if world.is_first:
            write_text(file, json.dumps([round(each, 2) for each in peaks.tolist()]))


def peer_rows(
    environments: Path, log: Interactions, processes: int, steps: int
) -> dict[str, dict[str, Any]]:
    """RecTools' SASRec on one and several processes: a step of the same users, in turn."""
    python = (environments / "rectools" / "bin" / "python").absolute()
    counts, seconds = (1, processes), {1: np.zeros(2), processes: np.zeros(2)}
    with tempfile.TemporaryDirectory() as name:
        task, folder = Path(name) / "task.npz", Path(name) / "seconds"
        task_of(log, log, 10).save(task)
        for each in counts * PEER_ROUNDS:
            folder.mkdir()
            subprocess.run(
                [
                    *(str(python), "-W", "ignore", "-m", "peers.rectools_processes"),
                    *(str(task), str(each), str(steps), str(folder)),
                ],
                check=True,
                cwd=Path(__file__).parent,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                capture_output=True,
            )
            found = [json.loads(path.read_text()) for path in folder.iterdir()]
            seconds[each] += np.max(found, axis=0)  # of the process that needs most
            shutil.rmtree(folder)
    return {
        f"RecTools' SASRec, {name}": {
            "times_one": round(seconds[1][0] / seconds[each][0], 2),
            "times_one_by_cpu": round(seconds[1][1] / seconds[each][1], 2),
        }
        for name, each in zip(("one process", "replicated"), counts, strict=True)
    }


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
            exists = batch.targets.exists
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
        sent = self.world.bytes_sent - sent
        return int(self.world.sum(torch.tensor(events))), seconds, sent, cpu


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The figures as Markdown."""
    lines = [
        "| part, processes | events/s | times one process | by CPU time | bytes per step |",
        "|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {name} | {row.get('events_per_second', '')} | {row['times_one']:.2f} | "
        f"{row['times_one_by_cpu']:.2f} | {row.get('bytes_per_step', '')} |"
        for name, row in rows.items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
