"""Top-k lists of other projects' recommenders, tuned on validation, evaluated by EmoRec.

    benchmarks/peers/setup.sh ENVIRONMENTS
    python benchmarks/peer_lists.py --dataset ml-1m --data-dir DATA --environments ENVIRONMENTS \
        --peer sasrec

Each peer runs in a process and an environment of its own and never sees what is held out: it is
given events (`peers.exchange.Task`) and answers with lists (`peers.exchange.Lists`). Every
combination of its grid in ``peers/peers.toml`` learns from the train split and is evaluated on the
validation split after several epochs; the best one then learns from both parts, for as many epochs.

``LISTS/DATASET-HOLDOUT-PEER.npz`` holds the lists for the test split's users, ``users`` int64
``[U]`` and ``items`` int64 ``[U, k]``; the .json beside it what was tried and chosen, the seconds
and the metrics. A peer whose lists are there is not run again. The peers that run their authors'
code want checkouts of it: ``--checkouts FOLDER`` with SiReN-reco, SIGformer, NFARec and pnfrec.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from peers.exchange import Lists, Settings, Task
from quality_report import Holdout

from emorec.data.datasets import load_dataset
from emorec.data.interactions import Interactions
from emorec.data.splits import Split
from emorec.evaluation.top_k import Evaluation, TopK, evaluate
from emorec.storage.files import atomic_path, write_text

HERE = Path(__file__).parent
PEERS: dict[str, dict[str, Any]] = tomllib.loads((HERE / "peers" / "peers.toml").read_text())


@dataclass(frozen=True)
class Try:
    """One combination of hyper-parameters and its best epoch.

    Attributes:
        settings: The combination.
        epoch: The epoch after which validation was best.
        score: The validation score then.
        seconds: Seconds of training for all epochs.
    """

    settings: Settings
    epoch: int
    score: float
    seconds: float


@click.command(context_settings={"max_content_width": 100})
@click.option("--dataset", required=True, help="Name of a data set.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where data sets are.")
@click.option("--peer", "peers", multiple=True, type=click.Choice(list(PEERS)), help="Only these.")
@click.option(
    "--environments",
    type=click.Path(path_type=Path, exists=True),
    required=True,
    help="Folder that peers/setup.sh filled.",
)
@click.option("--checkouts", type=click.Path(path_type=Path), help="Folder with authors' code.")
@click.option("--lists", type=click.Path(path_type=Path), default=Path("runs/peers"))
@click.option("--epochs", type=int, help="Most epochs.  [default: as in peers.toml]")
@click.option("--tries", type=int, help="Most combinations, the grid's first.  [default: all]")
@click.option(
    "--set", "overrides", multiple=True, metavar="NAME=VALUE", help="In place of the grid's values."
)
@click.option("--select", default="ndcg_any", show_default=True, help="What validation maximises.")
@click.option(
    "--holdout",
    default=Holdout().option,
    show_default=True,
    callback=lambda context, parameter, text: Holdout.parse(text),
    help='Events of each user, "time": the last tenth of the log, "random": a fifth of it.',
)
@click.option("--k", default=10, show_default=True, help="Length of the lists.")
@click.option("--seed", default=0, show_default=True)
def main(
    dataset: str,
    data_dir: Path | None,
    peers: tuple[str, ...],
    environments: Path,
    checkouts: Path | None,
    lists: Path,
    epochs: int | None,
    tries: int | None,
    overrides: tuple[str, ...],
    select: str,
    holdout: Holdout,
    k: int,
    seed: int,
) -> None:
    """Tunes peers on DATASET and writes their lists for the users of its test split."""
    split = holdout.split(load_dataset(dataset, data_dir))
    if not len(split.valid_targets):
        raise click.UsageError(f"{dataset} is too short for a validation split to tune on")
    for name in peers or PEERS:
        target = lists / f"{list_prefix(dataset, holdout)}-{name}.npz"
        if target.with_suffix(".json").exists():
            click.echo(f"{target} is there")
            continue
        peer = Peer(name, environments, checkouts)
        combinations = peer.combinations(epochs, seed, parsed(overrides, name))[:tries]
        done = [tune(peer, split, settings, k, select) for settings in combinations]
        best = max(done, key=lambda one: one.score)
        last = peer.run(
            task_of(split.history, split.test, k), {**best.settings, "epochs": [best.epoch]}
        )
        facts = {
            "peer": name,
            "dataset": dataset,
            "settings": best.settings,
            "epochs": best.epoch,
            "training_seconds": round(float(last.seconds[0]), 1),
            "tuning_seconds": round(sum(one.seconds for one in done), 1),
            "select": select,
            "tries": [vars(one) for one in done],
            "test": evaluate_lists(last, 0, split.test, k).summary(),
        }
        with atomic_path(target) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, users=last.users, items=last.items[0])
        write_text(target.with_suffix(".json"), json.dumps(facts, indent=1) + "\n")
        click.echo(f"{name}: {json.dumps(facts['test'])}")


def list_prefix(dataset: str, holdout: Holdout) -> str:
    """The beginning of names of files of lists."""
    return f"{dataset}-{holdout.name}"


def parsed(overrides: tuple[str, ...], peer: str) -> Settings:
    """Hyper-parameters from texts like ``session_max_len=20``.

    Raises:
        click.UsageError: If one is not in the peer's grid, or its value no JSON.
    """
    settings: Settings = {}
    for text in overrides:
        name, _, value = text.partition("=")
        if name not in PEERS[peer]["grid"]:
            known = ", ".join(PEERS[peer]["grid"])
            raise click.UsageError(f"--set {text}: {peer} has no {name!r} (one of: {known})")
        try:
            settings[name] = json.loads(value)
        except json.JSONDecodeError as error:
            raise click.UsageError(f"--set {text}: {value!r} is no JSON value") from error
    return settings


class Peer:
    """A recommender of another project.

    Args:
        name: A name of ``peers.toml``.
        environments: Folder of virtual environments.
        checkouts: Folder of authors' code, for peers that need it.

    Raises:
        FileNotFoundError: If the environment or the checkout is not there.
    """

    def __init__(self, name: str, environments: Path, checkouts: Path | None = None) -> None:
        self.name = name
        self.facts = PEERS[name]
        self.python = environments.absolute() / self.facts["environment"] / "bin" / "python"
        if not self.python.exists():
            raise FileNotFoundError(f"{self.python} is not there; run benchmarks/peers/setup.sh")
        self.fixed: Settings = {}
        if "checkout" in self.facts:
            checkout = (checkouts or Path()).absolute() / self.facts["checkout"]
            if checkouts is None or not checkout.exists():
                raise FileNotFoundError(
                    f"peer {name!r} runs its authors' code, which is not at {checkout}; name the "
                    "folder of checkouts with --checkouts"
                )
            self.fixed["checkout"] = str(checkout)

    def combinations(
        self, epochs: int | None, seed: int, overrides: Settings | None = None
    ) -> list[Settings]:
        """What to try: all of the grid but for overrides, each for at most so many epochs."""
        report = [e for e in self.facts["epochs"] if epochs is None or e <= epochs]
        if not report:
            raise ValueError(f"epochs must be at least {self.facts['epochs'][0]}, got {epochs}")
        grid = self.facts["grid"] | {name: [value] for name, value in (overrides or {}).items()}
        return [
            {**dict(zip(grid, values, strict=True)), "seed": seed, "epochs": report}
            for values in itertools.product(*grid.values())
        ]

    def run(self, task: Task, settings: Settings) -> Lists:
        """Trains in the peer's environment, on one thread.

        Raises:
            subprocess.CalledProcessError: If the peer failed; its output says why.
        """
        # One thread; and glibc keeps the memory of large arrays, which are slow to get again.
        threads = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        memory = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**34)}
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            task.save(folder / "task.npz")
            (folder / "settings.json").write_text(json.dumps({**settings, **self.fixed}))
            files = [str(folder / file) for file in ("task.npz", "settings.json", "lists.npz")]
            click.echo(f"{self.name} {json.dumps(settings)}")
            subprocess.run(
                [str(self.python), "-W", "ignore", "-m", f"peers.{self.facts['runner']}", *files],
                cwd=folder,  # some leave files where they run
                env={**os.environ, **threads, **memory, "PYTHONPATH": str(HERE)},
                check=True,
            )
            return Lists.load(folder / "lists.npz")


def tune(peer: Peer, split: Split, settings: Settings, k: int, select: str) -> Try:
    """Trains on the train split and evaluates on the validation split after several epochs."""
    lists = peer.run(task_of(split.train, split.valid_targets, k), settings)
    scores = [
        evaluate_lists(lists, place, split.valid_targets, k).summary()[select]
        for place in range(len(lists.epochs))
    ]
    best = int(np.argmax(scores))
    shown = " ".join(f"{e}: {s:.4f}" for e, s in zip(lists.epochs, scores, strict=True))
    click.echo(f"  validation {select} by epoch: {shown}")
    return Try(settings, int(lists.epochs[best]), scores[best], round(float(lists.seconds[-1]), 1))


def task_of(known: Interactions, held_out: Interactions, k: int) -> Task:
    """The task that ends where the held-out part begins, for the users of that part."""
    rows = known.select(known.chronological())
    return Task(
        user=rows.user,
        item=rows.item,
        liked=rows.is_positive,
        users=np.unique(held_out.user),
        num_users=known.num_users,
        num_items=known.num_items,
        k=k,
    )


def evaluate_lists(lists: Lists, place: int, held_out: Interactions, k: int) -> Evaluation:
    """EmoRec's own evaluation of the lists after one of the epochs."""
    return evaluate(top_k_of(lists.items[place]), lists.users, held_out, k)


def read_top_k(path: Path) -> tuple[np.ndarray, TopK]:
    """The users, int64 ``[U]``, and the lists of a file ``DATASET-HOLDOUT-PEER.npz``."""
    with np.load(path, allow_pickle=False) as file:
        return file["users"], top_k_of(file["items"])


def top_k_of(items: np.ndarray) -> TopK:
    """Lists as the evaluation takes them; a peer's scores stay with it."""
    ranked = torch.from_numpy(items.astype(np.int64))
    place = torch.arange(items.shape[1], 0, -1, dtype=torch.float32).expand(ranked.shape)
    return TopK(ranked, place.masked_fill(ranked < 0, -torch.inf))


if __name__ == "__main__":
    main()
