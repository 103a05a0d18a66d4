"""What an epoch of training costs, beside peers', and how that grows with the log.

    python benchmarks/train_bench.py peers --dataset ml-1m --data-dir DATA [--environments DIR]
    python benchmarks/train_bench.py growth --plot growth.svg
    python benchmarks/train_bench.py threads --dataset ml-1m --data-dir DATA

Each row is one epoch in a process of its own, on one thread unless said: CPU seconds, which other
work on the machine disturbs little, wall seconds, and the most memory the process held. The
flagship is measured with the compiled operators and with the reference of each; all start from the
same parameters and draw the same batches, so that their losses must agree.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
import numpy as np
import torch
from machine import machine

from emorec.building import build_model
from emorec.config import load_config
from emorec.data.datasets import load_dataset
from emorec.data.interactions import Interactions
from emorec.data.splits import split_interactions
from emorec.memory import peak_memory_gib
from emorec.ops.library import Backend
from emorec.ops.softmax_loss import softmax_loss
from emorec.storage.files import write_text
from emorec.training.loop import train

OURS = {
    "emorec": (),
    "emorec, reference attention": ("--set", "sequence.attention=reference"),
    "emorec, reference loss": ("--loss", "reference"),
    "diff-gat-thp-polarity": ("--preset", "diff-gat-thp-polarity"),
    "diff-gat-thp-polarity, torch": (
        *("--preset", "diff-gat-thp-polarity"),
        *("--set", "model.backend=torch"),
    ),
}
PEERS = ("sasrec", "lightgcn")
GROWTH = (10**5, 3 * 10**5, 10**6, 3 * 10**6, 10**7)
EVENTS_PER_USER, ITEMS = 100, 4_000


@click.group(context_settings={"max_content_width": 100}, invoke_without_command=True)
@click.pass_context
def main(context: click.Context) -> None:
    """Measures training; without a command, on synthetic logs of up to a million events."""
    if context.invoked_subcommand is None:
        context.invoke(growth, preset="emorec", most=10**6)


@main.command()
@click.option("--dataset", default="ml-1m", show_default=True)
@click.option("--data-dir", type=click.Path(path_type=Path))
@click.option("--environments", type=click.Path(path_type=Path), help="Of the peers, if wanted.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write figures here.")
def peers(
    dataset: str, data_dir: Path | None, environments: Path | None, json_path: Path | None
) -> None:
    """Times an epoch of each model on DATASET.

    Ends with 1, after the table, if a peer could not be run.
    """
    source = ["--dataset", dataset, *([] if data_dir is None else ["--data-dir", str(data_dir)])]
    rows = {name: one_epoch(*source, *options) for name, options in OURS.items()}
    failed = {}
    for name in PEERS if environments is not None else ():
        try:
            rows[name] = peer_epoch(name, dataset, data_dir, environments)
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            failed[name] = str(error)
    show(rows, json_path)
    if failed:  # after the figures of all others
        reasons = "\n".join(f"  {name}: {reason}" for name, reason in failed.items())
        raise click.ClickException(f"not measured:\n{reasons}")


@main.command()
@click.option("--preset", default="emorec", show_default=True)
@click.option("--most", default=GROWTH[-1], show_default=True, help="Events of the largest log.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write figures here.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw them (needs matplotlib).")
def growth(preset: str, most: int, json_path: Path | None = None, plot: Path | None = None) -> None:
    """Times an epoch on synthetic logs of growing size."""
    rows = {
        f"{events:,} events": one_epoch("--events", str(events), "--preset", preset)
        for events in GROWTH
        if events <= most
    }
    show(rows, json_path)
    if plot:
        draw(list(rows.values()), plot)


@main.command()
@click.option("--dataset", default="ml-1m", show_default=True)
@click.option("--data-dir", type=click.Path(path_type=Path))
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write figures here.")
def threads(dataset: str, data_dir: Path | None, json_path: Path | None) -> None:
    """Times an epoch of the flagship on one thread, and on as many as there are cores.

    Threads that wait sleep by default; OpenMP's own default, to spin, is the last row.
    """
    source = ["--dataset", dataset, *([] if data_dir is None else ["--data-dir", str(data_dir)])]
    most = os.cpu_count() or 1
    rows = {"1 thread": one_epoch(*source)}
    if most > 1:
        rows[f"{most} threads"] = one_epoch(*source, "--threads", str(most))
        with patch.dict(os.environ, OMP_WAIT_POLICY="active"):
            rows[f"{most} spinning threads"] = one_epoch(*source, "--threads", str(most))
    show(rows, json_path)


@main.command(hidden=True)
@click.option("--dataset")
@click.option("--data-dir", type=click.Path(path_type=Path))
@click.option("--events", type=int)
@click.option("--preset", default="emorec")
@click.option("--threads", default=1)
@click.option("--loss", type=click.Choice(["auto", "reference"]), default="auto")
@click.option("--set", "settings", multiple=True)
def one(
    dataset: str | None,
    data_dir: Path | None,
    events: int | None,
    preset: str,
    threads: int,
    loss: Backend,
    settings: tuple[str, ...],
) -> None:
    """Trains one epoch and prints what it cost, as JSON."""
    torch.set_num_threads(threads)
    # An optimizer's first step imports it: seconds once per process, and none of an epoch's.
    importlib.import_module("torch._dynamo")
    if dataset is not None:
        log = split_interactions(load_dataset(dataset, data_dir)).train
    else:
        assert events is not None
        log = random_log(events)
    config = load_config(preset, settings=("training.epochs=1", *settings))
    model = build_model(config, log.num_users, log.num_items)
    nothing = log.select(np.zeros(0, dtype=np.int64))
    started, wall_started = time.process_time(), time.perf_counter()
    with patch("emorec.training.softmax.softmax_loss", partial(softmax_loss, backend=loss)):
        records = train(model, config, log, nothing, progress=False)
    seconds, wall_seconds = time.process_time() - started, time.perf_counter() - wall_started
    facts = {
        "events": len(log),
        "seconds": round(seconds, 2),
        "wall_seconds": round(wall_seconds, 2),
        "events_per_second": round(len(log) / seconds),
        "peak_memory_gib": peak_memory_gib(),
        "loss": round(records[-1].loss, 4),
    }
    click.echo(json.dumps(facts))


def one_epoch(*options: str) -> dict[str, Any]:
    """The command ``one`` in a process of its own."""
    command = [sys.executable, "-W", "ignore", __file__, "one", *options]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(run.stdout.splitlines()[-1]))


def peer_epoch(
    name: str, dataset: str, data_dir: Path | None, environments: Path
) -> dict[str, Any]:
    """The second epoch of a peer; the first one also pays for its start."""
    from peer_lists import Peer, task_of

    split = split_interactions(load_dataset(dataset, data_dir))
    peer = Peer(name, environments)
    settings = {**peer.combinations(None, 0)[0], "epochs": [1, 2]}
    lists = peer.run(task_of(split.train, split.valid_targets, 10), settings)
    seconds = float(lists.seconds[1] - lists.seconds[0])
    return {
        "events": len(split.train),
        "seconds": round(seconds, 2),
        "events_per_second": round(len(split.train) / seconds),
    }


def random_log(events: int) -> Interactions:
    """Users of `EVENTS_PER_USER` events each, popular items and rare ones, an event an hour."""
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(events // EVENTS_PER_USER), EVENTS_PER_USER)
    item = (ITEMS * rng.random(len(user)) ** 2).astype(np.int64)
    time_of = np.tile(np.arange(EVENTS_PER_USER) * 3600, events // EVENTS_PER_USER)
    return Interactions.from_columns(user, item, rng.integers(4, size=len(user)), time_of)


def show(rows: dict[str, dict[str, Any]], json_path: Path | None) -> None:
    """Prints the table, and keeps the figures with where they come from."""
    click.echo(table(rows))
    if json_path:
        write_text(json_path, json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| | CPU s per epoch | wall s | events per CPU s | peak GiB | loss |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, row in rows.items():
        wall, peak, loss = (row.get(key, "") for key in ("wall_seconds", "peak_memory_gib", "loss"))
        speed = f"{row['events_per_second']:,}"
        lines.append(f"| {name} | {row['seconds']} | {wall} | {speed} | {peak} | {loss} |")
    return "\n".join(lines)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Seconds and memory over events, on logarithmic axes, beside a line through the last."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, both = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    events = [row["events"] for row in rows]
    for axes, key, label in zip(
        both, ("seconds", "peak_memory_gib"), ("s per epoch", "peak GiB"), strict=True
    ):
        values = [row[key] for row in rows]
        axes.loglog(events, values, "o-", label="measured")
        linear = [values[-1] * own / events[-1] for own in events]
        axes.loglog(events, linear, ":", color="grey", label="in proportion")
        axes.set(xlabel="events", ylabel=label)
        axes.legend(frameon=False)
    figure.savefig(path)


if __name__ == "__main__":
    main()
