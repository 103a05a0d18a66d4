"""A whole run: data in, a model trained and judged beside simple baselines, a folder out."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from emorec.baselines import ItemKNN, MeanReaction, MostPop
from emorec.building import build_model
from emorec.checkpoint import EpochRecord
from emorec.config import Config, ConfigError, DataConfig
from emorec.data.datasets import DATASETS, read_dataset
from emorec.data.interactions import Interactions, k_core, require_choice
from emorec.data.readers import ReadReport, read_interactions
from emorec.data.splits import Split, split_interactions
from emorec.evaluation.polarity import judge_predictions
from emorec.evaluation.ranking import Evaluation, Scorer, evaluate, recommend_top_k
from emorec.evaluation.report import write_report
from emorec.files import to_json, write_text
from emorec.memory import peak_memory_gib
from emorec.nn.polarity import ItemPolarity
from emorec.recommender import EmoRec
from emorec.run_folder import CHECKPOINT, save_config, save_split
from emorec.suggestions import suggestion

__all__ = [
    "data_card",
    "judge",
    "judge_baselines",
    "judge_polarity",
    "judge_run",
    "load_data",
    "prepare",
    "train_run",
    "write_results",
]


def load_data(
    options: DataConfig, data_dir: Path | None, progress: bool = True
) -> tuple[Interactions, ReadReport | None]:
    """Reads the configured data set or file and drops rare users and items.

    Raises:
        ValueError: If there is no such data set or file, or it cannot be used.
    """
    rules = options.rules or None
    if options.dataset in DATASETS:
        log, report = read_dataset(options.dataset, data_dir, rules=rules, progress=progress)
    elif Path(options.dataset).exists():
        log, report = read_interactions(
            options.dataset, **options.reading, rules=rules or "ratings"
        )
    else:
        raise ConfigError(
            f"data.dataset is {options.dataset!r}, which is neither a file here nor a data set; "
            f"{suggestion(options.dataset, DATASETS)}"
        )
    log = k_core(log, options.min_user_events, options.min_item_events)
    require_choice(log, options.dataset)
    return log, report


def prepare(
    config: Config, folder: Path, data_dir: Path | None = None, progress: bool = True
) -> tuple[Split, ReadReport | None]:
    """Reads and splits the data, and writes what a killed run needs to go on.

    Raises:
        ValueError: If settings do not fit each other, or the data cannot be used.
    """
    build_model(config, num_users=1, num_items=1)  # settings that do not fit fail before the data
    log, report = load_data(config.data, data_dir, progress)
    options = config.split
    split = split_interactions(log, options.method, options.n, options.quantile)
    save_config(folder, config)
    write_text(folder / "versions.json", json.dumps(_versions(), indent=2))
    save_split(folder, split)
    return split, report


def train_run(
    config: Config,
    split: Split,
    folder: Path,
    on_epoch: Callable[[list[EpochRecord]], None] = lambda records: None,
    progress: bool = True,
) -> EmoRec:
    """Trains, or goes on training, in a run folder prepared before."""

    def record(records: list[EpochRecord]) -> None:
        _write_metrics(folder, records)
        on_epoch(records)

    recommender = EmoRec(config=config).fit(
        split,
        checkpoint=folder / CHECKPOINT,
        on_epoch=record,
        progress=progress,
    )
    # Once more: a run that was stopped after its checkpoint and before this file may lack a line.
    _write_metrics(folder, recommender.records)
    recommender.save(folder)
    return recommender


def _write_metrics(folder: Path, records: list[EpochRecord]) -> None:
    lines = [to_json(asdict(record)) for record in records]
    write_text(folder / "metrics.jsonl", "\n".join(lines) + "\n")


def judge(scorer: Scorer, split: Split, k: int, batch_size: int | None = None) -> Evaluation:
    """Ranks the whole catalogue for each test user, given all events before the test part."""
    users = np.unique(split.test.user)
    history = split.history
    topk = recommend_top_k(scorer, users, history, k, chunk_size=batch_size)
    return evaluate(topk, users, split.test, k)


def judge_baselines(split: Split, k: int) -> dict[str, Evaluation]:
    """What simple models reach that know the same events."""
    history = split.history
    return {
        "MostPop": judge(MostPop().fit(history), split, k),
        "ItemKNN": judge(ItemKNN().fit(history), split, k),
    }


def judge_run(
    recommender: EmoRec, k: int, progress: bool = True
) -> tuple[dict[str, Evaluation], dict[str, dict[str, float]]]:
    """A run's lists for the test part beside those of simple models, and its predictions.

    Returns:
        Evaluations by model, and what `judge_polarity` returns.
    """
    split, config = recommender.split, recommender.config
    with tqdm(total=3, desc="judging", unit="part", leave=False, disable=not progress) as bar:
        own = judge(recommender.scorer(), split, k, config.evaluation.batch_size)
        bar.update()
        baselines = judge_baselines(split, k)
        bar.update()
        predictions = judge_polarity(recommender)
        bar.update()
    return {config.preset: own, **baselines}, predictions


def judge_polarity(recommender: EmoRec) -> dict[str, dict[str, float]]:
    """How well P(positive) of the test part's events is predicted, beside the mean reaction.

    Returns:
        What `judge_predictions` returns, by model; nothing if the model does not judge items.
    """
    if not isinstance(recommender.model.polarity, ItemPolarity):
        return {}
    split = recommender.split
    predictors: dict[str, Scorer] = {
        recommender.config.preset: recommender.scorer().polarity,
        "MeanReaction": MeanReaction().fit(split.history),
    }
    return {name: judge_predictions(each, split.test) for name, each in predictors.items()}


def write_results(
    folder: Path,
    config: Config,
    split: Split,
    results: dict[str, Evaluation],
    predictions: dict[str, dict[str, float]],
    records: list[EpochRecord],
) -> None:
    """Writes ``results.json``, with what the run cost, and ``report.html``."""
    facts = {
        "models": {name: evaluation.summary() for name, evaluation in results.items()},
        "predicted_polarity": predictions,
        "epochs": len(records),
        "training_seconds": round(sum(record.seconds for record in records), 1),
        "peak_memory_gib": peak_memory_gib(),
    }
    write_text(folder / "results.json", to_json(facts, indent=2))
    select = config.evaluation.select
    validated = [record for record in records if record.valid]  # none of a refit
    write_report(
        folder / "report.html",
        title=f"EmoRec: {config.preset} on {Path(config.data.dataset).name}",
        card=data_card(split),
        results=results,
        predictions=predictions,
        k=config.evaluation.k,
        curves=[
            {"epoch": record.epoch, "loss": record.loss, select: record.valid.get(select)}
            for record in validated or records  # where the log is too short for a validation part
        ],
        metric=select,
    )


def data_card(split: Split) -> dict[str, str | int | dict[str, int]]:
    """Facts about the data and its parts."""
    history = split.history
    parts = {"train": len(split.train), "valid": len(split.valid), "test": len(split.test)}
    counts = {kind.label: count for kind, count in history.feedback_counts().items()}
    return {
        "users": history.num_users,
        "items": history.num_items,
        "interactions": sum(parts.values()),
        "parts": parts,
        "feedback before the test part": counts,
    }


def _versions() -> dict[str, str]:
    packages = ["emorec", "torch", "dgl", "numpy", "pandas", "scipy"]
    installed = {dist.metadata["Name"].lower(): dist.version for dist in metadata.distributions()}
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "threads": str(torch.get_num_threads()),
        **{name: installed[name] for name in packages if name in installed},
    }
