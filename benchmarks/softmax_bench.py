"""The softmax over the whole catalogue beside one over drawn candidates: time and quality.

    python benchmarks/softmax_bench.py steps --json steps.json
    python benchmarks/softmax_bench.py quality --dataset ml-1m --data-dir DATA --epochs 3

The model is the flagship without the graph, which do not depend on the loss.
``steps`` trains on synthetic catalogues and takes apart what a step spends on parameters: AdamW,
the norm of the gradients and the moving average pass over all items in every step.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from emorec.data.vocabulary import Vocabulary
from emorec.storage.files import write_text
from emorec.training.averaging import ParameterAverage
from emorec.training.loop import train

SETTINGS = ("graph.conv=none", "graph.signed=false", "graph.informs=everything")
SETTINGS += ("graph.paths=0", "training.threads=1")
NEGATIVES = (0, 256, 1024, 4096)  # 0: the whole catalogue
ITEMS = (10_000, 20_000, 50_000, 100_000, 1_000_000)
STEPS, EVENTS_PER_USER = 4, 199


@click.group(context_settings={"max_content_width": 100})
def main() -> None:
    """Measures the sampled softmax."""
    torch.set_num_threads(1)


@main.command()
@click.option("--items", "catalogues", multiple=True, type=int, default=ITEMS, show_default=True)
@click.option("--negatives", multiple=True, type=int, default=NEGATIVES, show_default=True)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write figures here.")
def steps(catalogues: tuple[int, ...], negatives: tuple[int, ...], json_path: Path | None) -> None:
    """Times training steps on synthetic catalogues."""
    rows = []
    for num_items in catalogues:
        log = random_log(num_items)
        for each in negatives:
            rows.append({"items": num_items, "negatives": each, **time_of_step(log, each)})
            click.echo(json.dumps(rows[-1]))
    keep(rows, json_path)


@main.command()
@click.option("--dataset", default="ml-1m", show_default=True)
@click.option("--data-dir", type=click.Path(path_type=Path))
@click.option("--epochs", default=3, show_default=True)
@click.option("--negatives", multiple=True, type=int, default=NEGATIVES, show_default=True)
@click.option("--seed", "seeds", multiple=True, type=int, default=(1,), show_default=True)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write figures here.")
def quality(
    dataset: str,
    data_dir: Path | None,
    epochs: int,
    negatives: tuple[int, ...],
    seeds: tuple[int, ...],
    json_path: Path | None,
) -> None:
    """Trains for some epochs and shows NDCG on validation after each."""
    split = split_interactions(load_dataset(dataset, data_dir))
    rows = []
    for each in negatives:
        for seed in seeds:
            config = load_config(
                settings=(
                    *SETTINGS,
                    f"loss.negatives={each}",
                    f"training.epochs={epochs}",
                    f"training.seed={seed}",
                )
            )
            model = build_model(config, split.train.num_users, split.train.num_items)
            started = time.process_time()
            records = train(model, config, split.train, split.valid_targets, progress=False)
            seconds = round(time.process_time() - started, 1)
            ndcg = [round(record.valid["ndcg"], 4) for record in records]
            rows.append({"negatives": each, "seed": seed, "cpu_seconds": seconds, "ndcg": ndcg})
            click.echo(json.dumps(rows[-1]))
    keep(rows, json_path)


def time_of_step(log: Interactions, negatives: int) -> dict[str, float]:
    """CPU ms of a step of the second epoch, and what of it goes to the update of parameters."""
    config = load_config(settings=(*SETTINGS, f"loss.negatives={negatives}", "training.epochs=2"))
    model = build_model(config, log.num_users, log.num_items)
    nothing = log.select(np.zeros(0, dtype=np.int64))
    clock: dict[str, list[float]] = {"update": [], "epoch": [time.process_time()]}
    with (
        timed(torch.optim.AdamW, "step", clock["update"]),
        timed(torch.nn.utils, "clip_grad_norm_", clock["update"]),
        timed(ParameterAverage, "update", clock["update"]),
    ):
        train(
            model,
            config,
            log,
            nothing,
            on_epoch=lambda _: clock["epoch"].append(time.process_time()),
            progress=False,
        )
    updates = clock["update"][len(clock["update"]) // 2 :]
    return {
        "ms": round(1000 * (clock["epoch"][-1] - clock["epoch"][-2]) / STEPS, 1),
        "update_ms": round(1000 * sum(updates) / STEPS, 1),
    }


@contextmanager
def timed(owner: Any, name: str, seconds: list[float]) -> Iterator[None]:
    """Appends the CPU seconds of every call of a function."""
    function: Callable[..., Any] = getattr(owner, name)

    def call(*args: Any, **options: Any) -> Any:
        started = time.process_time()
        try:
            return function(*args, **options)
        finally:
            seconds.append(time.process_time() - started)

    with patch.object(owner, name, call):
        yield


def random_log(num_items: int) -> Interactions:
    """Batches of users with long histories, over popular items and rare ones."""
    rng = np.random.default_rng(0)
    num_users = STEPS * load_config().training.batch_size
    user = np.repeat(np.arange(num_users), EVENTS_PER_USER)
    item = (num_items * rng.random(len(user)) ** 3).astype(np.int64)
    hour = np.tile(np.arange(EVENTS_PER_USER) * 3600, num_users)
    kind = rng.integers(4, size=len(user)).astype(np.int8)
    users, items = Vocabulary(range(num_users)), Vocabulary(range(num_items))
    return Interactions(user, item, kind, hour, users, items, "s")


def keep(rows: list[dict[str, Any]], json_path: Path | None) -> None:
    """Writes the figures beside where they come from."""
    if json_path:
        write_text(json_path, json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
