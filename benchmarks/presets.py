"""Every preset on one data set, beside the paper's Table 1 and simple baselines.

    python benchmarks/presets.py --dataset ml-1m --data-dir DATA

Each preset gets a run folder; one that is finished is not run again, one that was killed goes on.
The table and each run's configuration go to ``benchmarks/results``.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import click

from emorec.config import preset_names
from emorec.storage.files import write_text

HERE = Path(__file__).parent
BASELINES = ("MostPop", "ItemKNN")
MEASURES = {
    "Recall": "recall_any",
    "NDCG": "ndcg_any",
    "MAP": "map_any",
    "likes Recall": "recall_likes",
    "likes NDCG": "ndcg_likes",
    "dislikes Recall": "recall_dislikes",
    "disliked share": "disliked_share",
}
PRECISE = ("Recall", "NDCG", "MAP")  # as in the paper's table


@click.command(context_settings={"max_content_width": 100})
@click.option("--dataset", required=True, help="Name of a data set.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where data sets are.")
@click.option(
    "--preset", "presets", multiple=True, type=click.Choice(preset_names()), help="Only these."
)
@click.option("--runs", type=click.Path(path_type=Path), default=Path("runs"), show_default=True)
@click.option("--epochs", type=int, help="Most epochs of each run.  [default: the preset's]")
@click.option("--threads", default=1, show_default=True, help="CPU threads of each run.")
def main(
    dataset: str,
    data_dir: Path | None,
    presets: tuple[str, ...],
    runs: Path,
    epochs: int | None,
    threads: int,
) -> None:
    """Trains all presets on DATASET and writes a table of those that are finished."""
    folders = {name: runs / f"{dataset}-{name}" for name in preset_names()}
    for name in presets or folders:
        if not (folders[name] / "results.json").exists():
            train(name, dataset, data_dir, folders[name], epochs, threads)
    finished = {
        name: json.loads((folder / "results.json").read_text())
        for name, folder in folders.items()
        if (folder / "results.json").exists()
    }
    target = HERE / "results" / f"presets-{dataset}"
    for name in finished:
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(folders[name] / "config.toml", target / f"{name}.toml")
        shutil.copy(folders[name] / "versions.json", target / "versions.json")
    table = markdown(dataset, finished)
    write_text(target.with_suffix(".md"), table)
    write_text(target.with_suffix(".json"), json.dumps(finished, indent=1) + "\n")
    click.echo(table)


def train(
    preset: str, dataset: str, data_dir: Path | None, folder: Path, epochs: int | None, threads: int
) -> None:
    """One run in a process of its own, so that its peak memory is its own."""
    command = [str(Path(sys.executable).parent / "emorec-train"), "--threads", str(threads)]
    if (folder / "config.toml").exists():
        command += ["--resume", str(folder)]
    else:
        command += ["--preset", preset, "--dataset", dataset, "--run-dir", str(folder)]
        command += [] if data_dir is None else ["--data-dir", str(data_dir)]
        command += [] if epochs is None else ["--epochs", str(epochs)]
    click.echo(" ".join(command))
    subprocess.run(command, check=True)


def markdown(dataset: str, finished: dict[str, Any]) -> str:
    """The table: baselines, then each preset with its row of the paper below it."""
    paper = tomllib.loads((HERE / "paper_table1.toml").read_text()).get(dataset, {})
    first = next(iter(finished.values()))["models"]
    k = 10
    lines = [
        f"# Presets on {dataset}",
        "",
        f"Full ranking of the catalogue at k = {k}, leave-10-last-out; the epoch is chosen on "
        "validation, the test split evaluated once. One seed, one thread; seconds on a shared "
        "machine. Made by",
        "",
        f"    python benchmarks/presets.py --dataset {dataset} --data-dir DATA [--preset ...] "
        "[--epochs ...]",
        "",
        f"Each run's configuration, its most epochs among it, is in presets-{dataset}/.",
        "",
        "| model | " + " | ".join(MEASURES) + " | epochs | training s | peak GiB |",
        "| --- |" + " ---: |" * (len(MEASURES) + 3),
    ]
    lines += [f"| {name} | {cells(first[name])} | | | |" for name in BASELINES]
    for name, facts in finished.items():
        cost = f"{facts['epochs']} | {facts['training_seconds']:.0f} | {facts['peak_memory_gib']}"
        lines.append(f"| **{name}** | {cells(facts['models'][name])} | {cost} |")
        if name in paper:
            reported = [f"{value:.4f}" for value in paper[name]]
            empty = [""] * (len(MEASURES) - len(PRECISE) + 3)
            lines.append(f"| {name}, paper | " + " | ".join(reported + empty) + " |")
    return "\n".join(lines) + "\n"


def cells(summary: dict[str, float]) -> str:
    """One row's figures."""
    return " | ".join(f"{summary[key]:.4f}" for key in MEASURES.values())


if __name__ == "__main__":
    main()
