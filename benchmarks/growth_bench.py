"""What logs and catalogues of growing size cost, stage by stage.

    python benchmarks/growth_bench.py preparing --most 1e8
    python benchmarks/growth_bench.py counting --most 1e6
    python benchmarks/growth_bench.py learning --most 1e6
    python benchmarks/growth_bench.py recommending --most 1e6
    python benchmarks/growth_bench.py plot

Each size is measured in a process of its own, on one thread (`preparing`: the command's defaults):
CPU time, which other work on the machine disturbs little, and the most memory that the process
held. Logs are random, with popular items and rare ones. Figures go to ``results/scale-STAGE.json``
with ``--json``; `plot` draws them.

`preparing` runs `emorec data prepare` on csv files, with a hundredth as many users as events, and a
tenth of those as items.

`counting` counts similar items, with 20 events per item and 50 per user. As random logs have no
similar items, all items are neighbours of others, which is more to count than in a log of the same
size that people made.

`learning` takes steps of a training on 20,000 users of 100 events: what each costs, once all is
set up. `train_bench.py growth` measures training by the number of events.

`recommending` makes lists of ten items for users of 100 events, from a model that is not trained,
and sets the time beside that of the products alone: users' vectors by those of all items.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import torch
from machine import machine

from emorec.building import build_model
from emorec.config import Config, load_config
from emorec.data.interactions import Interactions
from emorec.data.sequences import EventSequences
from emorec.data.vocabulary import Vocabulary
from emorec.evaluation.top_k import recommend_top_k
from emorec.inference.ranking import ModelScorer
from emorec.memory import keep_freed_memory, peak_memory_gib
from emorec.storage.files import write_text
from emorec.training.distributed import clip_gradients
from emorec.training.parts import parts_of, with_chosen_horizon
from emorec.training.similarity import similar_items

RESULTS = Path(__file__).parent / "results"
PRESETS = ("emorec-graph", "emorec")
FILE_EVENTS = 10**7  # of a csv file
WARM, STEPS = 2, 6
LISTED = 512  # users


def by_items(command: Callable[..., None]) -> Callable[..., None]:
    """The options of stages that are measured with presets, by the number of items."""
    for option in (
        click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write figures."),
        click.option("--set", "settings", multiple=True, metavar="NAME=VALUE"),
        click.option("--preset", "presets", multiple=True, default=PRESETS, show_default=True),
        click.option("--most", type=float, default=1e5, show_default=True, help="Most items."),
        click.option("--least", type=float, default=1e4, show_default=True, help="Fewest items."),
    ):
        command = option(command)
    return command


@click.group(context_settings={"max_content_width": 100})
def main() -> None:
    """Measures what grows with logs and catalogues."""


@main.command()
@click.option("--most", type=float, default=1e7, show_default=True, help="Events of the last log.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write figures here.")
def preparing(most: float, json_path: Path | None) -> None:
    """CPU seconds, memory and disk of preparing logs of 1e5, 1e6, ... events."""
    rows = []
    for events in sizes(10**5, most):
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
    keep(rows, json_path)


@main.command()
@click.option("--most", type=float, default=1e5, show_default=True, help="Most items.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write figures here.")
def counting(most: float, json_path: Path | None) -> None:
    """CPU seconds and memory of the similar items of 1e4, 1e5, ... items."""
    keep([measured("counting", items) for items in sizes(10**4, most)], json_path)


@main.command()
@by_items
def learning(json_path: Path | None, **options: Any) -> None:
    """CPU time of training steps, and memory, with 1e4, 1e5, ... items."""
    keep(by_preset("learning", **options), json_path)


@main.command()
@by_items
def recommending(json_path: Path | None, **options: Any) -> None:
    """CPU time of lists, and memory, with 1e4, 1e5, ... items."""
    keep(by_preset("recommending", **options), json_path)


def by_preset(
    stage: str, least: float, most: float, presets: tuple[str, ...], settings: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Measures a stage with each preset."""
    return [
        {"preset": preset, **measured(stage, items, preset, settings)}
        for preset in presets
        for items in sizes(least, most)
    ]


def sizes(least: float, most: float) -> list[int]:
    """Powers of ten."""
    return [10**power for power in range(20) if least <= 10**power <= most]


def keep(rows: list[dict[str, Any]], json_path: Path | None) -> None:
    """Writes the figures with where they come from."""
    if json_path:
        write_text(json_path, json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")


def measured(
    stage: str, items: int, preset: str = "", settings: tuple[str, ...] = ()
) -> dict[str, Any]:
    """A measurement in a process of its own."""
    command = [sys.executable, "-W", "ignore", __file__, "one", stage, str(items), preset]
    command += settings
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=alone)
    row = dict(json.loads(run.stdout.splitlines()[-1]))
    click.echo(json.dumps(row))
    return row


@main.command(hidden=True)
@click.argument("stage")
@click.argument("items", type=int)
@click.argument("preset")
@click.argument("settings", nargs=-1)
def one(stage: str, items: int, preset: str, settings: tuple[str, ...]) -> None:
    """Measures one size, and prints the figures as JSON."""
    torch.set_num_threads(1)
    keep_freed_memory()
    stages: dict[str, Callable[[], dict[str, Any]]] = {
        "counting": lambda: count(items),
        "learning": lambda: learn(items, load_config(preset, settings=settings)),
        "recommending": lambda: recommend(items, load_config(preset, settings=settings)),
    }
    found = stages[stage]()
    click.echo(json.dumps({"items": items, **found, "peak_memory_gib": peak_memory_gib()}))


def count(items: int) -> dict[str, Any]:
    """Counts the similar items of a log with 20 events per item."""
    log = random_log(20 * items // 50, 50, items, power=3)
    started, cpu_started = time.perf_counter(), time.process_time()
    found = similar_items(log, 100)
    return {
        "events": len(log),
        "users": log.num_users,
        "similarities": found.nnz,
        "seconds": round(time.perf_counter() - started, 1),
        "cpu_seconds": round(time.process_time() - cpu_started, 1),
    }


def learn(items: int, config: Config) -> dict[str, Any]:
    """Milliseconds per step of each part of a training."""
    log = random_log(20_000, 100, items)
    model = build_model(config, log.num_users, items)
    facts: dict[str, Any] = {}
    # Without validation, a state predicts three events.
    config = with_chosen_horizon(config, log.select(np.zeros(0, np.int64)))
    for part in parts_of(model, config, EventSequences.build(log), log):
        rng, spent = np.random.default_rng(0), []
        model.train()
        for batch in islice(part.batches(rng), WARM + STEPS):
            started = time.process_time()
            part.optimizer.zero_grad(set_to_none=True)
            loss = part.loss(batch, rng)
            assert loss is not None
            loss.backward()
            clip_gradients(part.parameters(), 1.0)
            part.optimizer.step()
            if part.average is not None:
                part.average.update()
            spent.append(time.process_time() - started)
        facts[f"{part.name}_ms_per_step"] = round(1000 * float(np.median(spent[WARM:])), 1)
    return facts


def recommend(items: int, config: Config) -> dict[str, Any]:
    """Milliseconds per list, and those of the products alone."""
    log = random_log(LISTED, 100, items)
    model = build_model(config, LISTED, items)
    if model.feedback_paths is not None:
        model.feedback_paths.item.random_(0, items)
        model.feedback_paths.similarity.uniform_()
    scorer, users = ModelScorer(model, log), np.arange(LISTED)
    recommend_top_k(scorer, users[:128], log, 10)  # warms up
    started = time.process_time()
    recommend_top_k(scorer, users, log, 10)
    seconds = time.process_time() - started
    tables = [] if model.feedback_sum is None else [model.feedback_sum.target.weight]
    tables += [] if model.item_embedding is None else [model.item_vectors]
    started = time.process_time()
    with torch.inference_mode():
        for table in tables:
            vectors = torch.randn(128, table.shape[1])
            for block in table.split(2**14):
                vectors @ block.T
    products = (time.process_time() - started) / 128
    return {
        "ms_per_list": round(1000 * seconds / LISTED, 3),
        "ms_of_products": round(1000 * products, 3),
    }


def random_log(users: int, events_per_user: int, items: int, power: float = 2) -> Interactions:
    """Users of so many events, one an hour; the larger the power, the more on popular items."""
    rng, events = np.random.default_rng(items), users * events_per_user
    return Interactions(
        user=np.repeat(np.arange(users), events_per_user),
        item=(items * rng.random(events) ** power).astype(np.int64),
        feedback=rng.integers(4, size=events),
        time=np.tile(np.arange(events_per_user) * 3600, users),
        users=Vocabulary(np.arange(users)),
        items=Vocabulary(np.arange(items)),
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
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=RESULTS / "scale.svg",
    show_default="results/scale.svg",
)
def plot(output: Path) -> None:
    """Draws the figures in results/ over size, on logarithmic axes."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot, ticker

    figure, axes = pyplot.subplots(2, 4, figsize=(14, 6), layout="constrained", sharex="col")
    colours = {"": "black", "emorec-graph": "tab:orange", "emorec": "tab:blue"}
    styles = {"encoders_ms_per_step": "s--", "ms_of_products": ":"}
    columns = (
        ("preparing", "events", ("cpu_seconds",), "CPU s"),
        ("counting", "items", ("cpu_seconds",), "CPU s"),
        ("learning", "items", ("graph_ms_per_step", "encoders_ms_per_step"), "CPU ms per step"),
        ("recommending", "items", ("ms_per_list", "ms_of_products"), "CPU ms per list"),
    )
    for (stage, size, keys, unit), (above, below) in zip(columns, axes.T, strict=True):
        rows = json.loads((RESULTS / f"scale-{stage}.json").read_text())["rows"]
        for preset in dict.fromkeys(row.get("preset", "") for row in rows):
            some = [row for row in rows if row.get("preset", "") == preset]
            x = [row[size] for row in some]
            for key in keys:
                if key not in some[0]:
                    continue
                what = key.replace("_ms_per_step", "").replace("ms_of_", "")
                label = preset if key == "ms_per_list" else f"{preset}: {what}"
                y, colour = [row[key] for row in some], colours[preset]
                above.loglog(x, y, styles.get(key, "o-"), color=colour, label=label)
                slope = np.polyfit(np.log10(x), np.log10(y), 1)[0]
                click.echo(f"{stage} {preset} {key}: time grows as {size} to the {slope:.2f}")
            memory = [row["peak_memory_gib"] for row in some]
            below.loglog(x, memory, "o-", color=colours[preset], label=preset)
        above.set(title=stage, ylabel=unit)
        for each in (above, below):
            each.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
            each.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
            each.yaxis.set_minor_locator(ticker.NullLocator())
            each.grid(alpha=0.3)
        below.set(xlabel=size, ylabel="peak GiB")
        if "preset" in rows[0]:
            above.legend(frameon=False, fontsize=8)
            below.legend(frameon=False, fontsize=8)
    figure.savefig(output)


if __name__ == "__main__":
    main()
