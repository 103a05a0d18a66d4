"""Recommendation quality: the flagship beside simple and strong recommenders, likes and dislikes.

    python benchmarks/quality.py train --dataset ml-1m --data-dir DATA
    python benchmarks/quality.py train --dataset ml-1m --data-dir DATA --seed 2
    python benchmarks/quality.py table --dataset ml-1m --data-dir DATA --lists LISTS

``train`` makes one run of the flagship per seed, with the preset's defaults: validation chooses
the epoch, and learning goes on with the validation split.
``table`` tunes the simple recommenders on validation, reads the lists of other projects'
recommenders (see ``peer_lists.py``) and evaluates all of them with one scorer:
``results/quality-DATASET.md``, ``.json`` and ``.svg``, and the tables of README.md and
docs/results.md.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from peer_lists import list_prefix, read_top_k
from quality_report import LOW_DISLIKE, NEIGHBOURS, Holdout, K, Results, results_file, write

from emorec.baselines import ItemKNN, ItemPrior
from emorec.baselines.tuned import BASELINES, tuned_baselines
from emorec.building import build_model
from emorec.comparison import evaluate_scorer
from emorec.config import Config, load_config
from emorec.data.datasets import load_dataset
from emorec.data.interactions import Interactions
from emorec.data.sequences import SequenceBatch
from emorec.data.splits import Split
from emorec.evaluation.predictions import evaluate_predictions, polarity_auc
from emorec.evaluation.responsiveness import evaluate_responsiveness
from emorec.evaluation.scores import Scorer
from emorec.evaluation.top_k import evaluate, recommend_top_k
from emorec.experiment import train_run
from emorec.inference.ranking import ModelScorer, UserStates
from emorec.memory import peak_memory_gib
from emorec.nn.model import Recommender
from emorec.recommender import EmoRec
from emorec.run_folder import read_config, save_split
from emorec.storage.files import write_text
from emorec.storage.tensors import load_tensors
from emorec.training.checkpoint import ENCODERS, EpochRecord
from emorec.training.parts import chosen_epochs

FIRST_SEED = 1
AVERSIONS = (0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0)  # those that validation chooses from
FRONTIER = (*AVERSIONS, 13.0, 16.0, 24.0, 40.0, 100.0)  # those that the plot shows
# The limits of the low-dislike setting: the share of dislikes among hits, and the recall of
# dislikes as a share of its value without aversion.
MOST_DISLIKED, MOST_RECALLED = 0.25, 2 / 3
RESPONSIVE_USERS = 500
PLAYS = 5

dataset_options = [
    click.option("--dataset", required=True, help="Name of a data set."),
    click.option("--data-dir", type=click.Path(path_type=Path), help="Where data sets are."),
    click.option(
        "--runs", type=click.Path(path_type=Path), default=Path("runs/quality"), show_default=True
    ),
    click.option(
        "--holdout",
        default=Holdout().option,
        show_default=True,
        callback=lambda context, parameter, text: Holdout.parse(text),
        help='Events held out of each user, or "time" for the last tenth of the log.',
    ),
]


def with_dataset(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options that all commands share."""
    for option in reversed(dataset_options):
        command = option(command)
    return command


@click.group(context_settings={"max_content_width": 100})
def main() -> None:
    """Measures recommendation quality."""


@main.command()
@with_dataset
@click.option("--seed", default=FIRST_SEED, show_default=True)
@click.option("--set", "settings", multiple=True, metavar="SECTION.KEY=VALUE")
def train(
    dataset: str,
    data_dir: Path | None,
    runs: Path,
    holdout: Holdout,
    seed: int,
    settings: tuple[str, ...],
) -> None:
    """Trains the flagship with one seed; a run that was killed goes on."""
    torch.set_num_threads(1)
    folder = run_folder(runs, dataset, holdout, seed)
    split = holdout.split(load_dataset(dataset, data_dir))
    config = load_config(settings=(f"data.dataset={dataset}", *settings))
    config = config.updated({"training": {"seed": seed}, "split": holdout.settings}, "--seed")
    write_text(folder / "config.toml", config.to_toml())
    save_split(folder, split)
    progress = sys.stderr.isatty()
    train_run(config, split, folder, lambda records: click.echo(asdict(records[-1])), progress)
    write_text(folder / "cost.json", json.dumps({"peak_memory_gib": peak_memory_gib()}))


@main.command()
@with_dataset
@click.option("--lists", type=click.Path(path_type=Path), default=Path("runs/peers"))
@click.option(
    "--without", multiple=True, help="Leave a simple recommender out; EASE takes its time."
)
def table(
    dataset: str,
    data_dir: Path | None,
    runs: Path,
    holdout: Holdout,
    lists: Path,
    without: tuple[str, ...],
) -> None:
    """Evaluate all models that are there and write the tables."""
    torch.set_num_threads(1)
    split = holdout.split(load_dataset(dataset, data_dir))
    results = Results()
    add_baselines(results, split, [name for name in BASELINES if name not in without])
    prefix = list_prefix(dataset, holdout)
    for path in sorted(lists.glob(f"{prefix}-*.npz")):
        add_peer(results, split, path, path.stem.removeprefix(f"{prefix}-"))
    results.earlier, facts = earlier_peers(results, dataset, holdout)
    results.facts |= facts
    add_flagship(results, split, run_folders(runs, dataset, holdout))
    write(results, dataset, holdout)


def earlier_peers(
    results: Results, dataset: str, holdout: Holdout
) -> tuple[dict[str, list[dict[str, float]]], dict[str, Any]]:
    """Rows and facts of the table before, of what is not evaluated again."""
    target = results_file(dataset, holdout)
    if not target.exists():
        return {}, {}
    old = json.loads(target.read_text())
    names = [
        name
        for name in old["models"]
        if name not in results.models and not name.startswith("emorec")
    ]
    return ({name: old["models"][name] for name in names}, {n: old["facts"][n] for n in names})


def run_folder(runs: Path, dataset: str, holdout: Holdout, seed: int) -> Path:
    """Where a run of the flagship is."""
    return runs / f"{dataset}-{holdout.name}-seed-{seed}"


def run_folders(runs: Path, dataset: str, holdout: Holdout) -> list[Path]:
    """The finished runs, the first seed's first."""
    pattern = run_folder(runs, dataset, holdout, 0).name.removesuffix("0") + "*"
    finished = [path.parent for path in runs.glob(f"{pattern}/model.safetensors")]
    first = run_folder(runs, dataset, holdout, FIRST_SEED)
    if first not in finished:
        raise click.UsageError(f"{first} is not finished; run the command 'train' first")
    return [first, *sorted(path for path in finished if path != first)]


def records_of(folder: Path) -> list[EpochRecord]:
    """The epochs of a run, those of its refit among them."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [EpochRecord(**json.loads(line)) for line in lines]


def best_epoch(folder: Path) -> int:
    """The epoch of the encoders that validation chose."""
    return chosen_epochs(read_config(folder), records_of(folder))[ENCODERS]


def learning_curve(folder: Path) -> list[tuple[float, float]]:
    """Seconds of training, and NDCG any on validation, after each epoch of a run."""
    valid = [record for record in records_of(folder) if record.valid]
    seconds = np.cumsum([record.seconds for record in valid])
    return [(round(s, 1), r.valid["ndcg"]) for s, r in zip(seconds.tolist(), valid, strict=True)]


def add_baselines(results: Results, split: Split, names: Sequence[str]) -> None:
    """Lets validation choose each one's settings, then evaluates on the test split."""
    for name, baseline in tuned_baselines(split, K, names):
        results.models[name] = [evaluate_scorer(baseline.scorer, split, K)]
        results.facts[name] = {
            "settings": baseline.settings,
            "polarity_auc": mean_auc(baseline.scorer, split),
        }
        click.echo(f"{name}: {json.dumps(results.models[name][0].summary())}")


def add_peer(results: Results, split: Split, path: Path, name: str) -> None:
    """Evaluates the lists of another project's recommender."""
    users, topk = read_top_k(path)
    results.models[name] = [evaluate(topk, users, split.test, K)]
    facts = json.loads(path.with_suffix(".json").read_text())
    kept = ("settings", "epochs", "training_seconds", "tuning_seconds")
    results.facts[name] = {key: facts[key] for key in kept}
    if facts["select"] == "ndcg_any":  # what the flagship's curve is of
        results.reached[name] = max(one["score"] for one in facts["tries"])


class CachingScorer(ModelScorer):
    """Encodes users once, for rankings at several aversions."""

    def __init__(self, model: Recommender, history: Interactions) -> None:
        super().__init__(model, history)
        self._cached: dict[tuple[bytes, bool], UserStates] = {}

    def _states(self, users: torch.Tensor, batch: SequenceBatch) -> UserStates:
        key = users.numpy().tobytes(), self._model.aversion > 0
        if key not in self._cached:
            self._cached[key] = super()._states(users, batch)
        return self._cached[key]


def add_flagship(results: Results, split: Split, folders: list[Path]) -> None:
    """Evaluates the flagship: the preset, the low-dislike setting and a curve over aversions."""
    models = [EmoRec.load(folder).model for folder in folders]
    scorers = [CachingScorer(model, split.history) for model in models]
    own = models[0].aversion
    results.curve = learning_curve(folders[0])
    results.predictions = predictions(split, scorers)
    low_dislike = low_dislike_aversion(split, folders[0], models[0])
    for aversion in sorted({*FRONTIER, own}):
        named = aversion in (own, low_dislike)  # one row where the preset is within the limits
        runs = []
        for model, scorer in list(zip(models, scorers, strict=True))[: None if named else 1]:
            model.aversion = aversion
            runs.append(evaluate_scorer(scorer, split, K))
        results.frontier.append({"aversion": aversion} | runs[0].summary())
        if named:
            name = "emorec" if aversion == own else LOW_DISLIKE
            results.models[name] = runs
            results.facts[name] = flagship_facts(split, models[0], folders, aversion)


def predictions(split: Split, scorers: list[CachingScorer]) -> dict[str, dict[str, float]]:
    """How well the flagship's heads predict polarities, a mean over seeds, beside counting."""
    figures = [evaluate_predictions(scorer.polarity, split.test) for scorer in scorers]
    return {
        "ItemPrior": evaluate_predictions(ItemPrior().fit(split.history), split.test),
        "emorec": {key: float(np.mean([one[key] for one in figures])) for key in figures[0]},
    }


def low_dislike_aversion(split: Split, folder: Path, refitted: Recommender) -> float:
    """Returns the smallest aversion, from the preset's on, within the limits on validation.

    The share and the recall of dislikes must both be low: where most events are likes, the share is
    low at any aversion. The model is the one before the refit. If no aversion is within the limits,
    the largest one is returned.
    """
    model = validated_model(split, folder)
    for name, buffer in refitted.named_buffers():
        if name.endswith(("ranking_weight", "decay_length")):  # chosen by then
            model.get_buffer(name).copy_(buffer)
    users = np.unique(split.valid_targets.user)
    scorer = CachingScorer(model, split.train)

    def evaluated(aversion: float) -> dict[str, float]:
        model.aversion = aversion
        topk = recommend_top_k(scorer, users, split.train, K)
        return evaluate(topk, users, split.valid_targets, K).summary()

    choices = [aversion for aversion in AVERSIONS if aversion >= model.aversion]
    most_recalled = MOST_RECALLED * evaluated(0.0)["recall_dislikes"]
    for aversion in choices:
        found = evaluated(aversion)
        if found["disliked_share"] <= MOST_DISLIKED and found["recall_dislikes"] <= most_recalled:
            break
    return aversion


def validated_model(split: Split, folder: Path) -> Recommender:
    """The model as validation chose it, fitted to the train split only."""
    config: Config = read_config(folder)
    model = build_model(config, split.train.num_users, split.train.num_items)
    tensors, _ = load_tensors(folder / "checkpoint.safetensors")
    prefix = "best."
    model.load_state_dict(
        {name.removeprefix(prefix): v for name, v in tensors.items() if name.startswith(prefix)}
    )
    return model


def flagship_facts(
    split: Split, model: Recommender, folders: list[Path], aversion: float
) -> dict[str, Any]:
    """Settings, cost, PolAUC and what a dislike changes, of the first seed's run."""
    model.aversion = aversion
    step = max(1, len(np.unique(split.test.user)) // RESPONSIVE_USERS)
    near = ItemKNN(neighbours=NEIGHBOURS + 1).fit(split.train).similarity
    asked = np.unique(split.test.user)[::step]

    def responsive(plays: int) -> Any:
        return evaluate_responsiveness(
            lambda log: ModelScorer(model, log), split.history, asked, near, K, plays=plays
        ).mean()

    answer, later = responsive(0), responsive(PLAYS)
    cost = json.loads((folders[0] / "cost.json").read_text())
    chosen = {
        name: buffer.item() if math.isfinite(buffer) else None
        for name, buffer in model.named_buffers()
        if name.endswith(("ranking_weight", "decay_length"))
    }
    return {
        "settings": {"aversion": aversion, **chosen},
        "seeds": len(folders),
        "epochs": best_epoch(folders[0]),
        "training_seconds": round(sum(record.seconds for record in records_of(folders[0])), 1),
        **cost,
        "polarity_auc": mean_auc(ModelScorer(model, split.history), split),
        **{key: round(float(value), 4) for key, value in answer.items()},
        f"responsiveness after {PLAYS} plays": round(float(later["responsiveness"]), 4),
    }


def mean_auc(scorer: Scorer, split: Split) -> float:
    """PolAUC on the test split."""
    return round(float(polarity_auc(scorer, np.unique(split.test.user), split.test).mean()), 4)


if __name__ == "__main__":
    main()
