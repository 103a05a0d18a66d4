"""A whole run: reads data, trains a model, evaluates it beside baselines, writes a folder."""

from __future__ import annotations

import json
import platform
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from emorec.baselines import ItemPrior
from emorec.baselines.tuned import names_for, tuned_baselines
from emorec.building import build_model, check_memory
from emorec.config import Config, ConfigError, DataConfig
from emorec.data.datasets import DATASETS, read_dataset
from emorec.data.datasets import load_items as load_data_set_items
from emorec.data.interactions import Interactions, k_core, require_choice
from emorec.data.items import Items, read_items, require_items
from emorec.data.readers import ReadReport, read_interactions
from emorec.data.splits import Split, how_tests_differ, is_repeat, split_interactions
from emorec.data.tables import Table
from emorec.data.vocabulary import Vocabulary
from emorec.evaluation.predictions import evaluate_predictions
from emorec.evaluation.scores import users_at_a_time
from emorec.evaluation.top_k import (
    Evaluation,
    Scorer,
    SeenItems,
    evaluate,
    excluded_items,
    recommend_top_k,
)
from emorec.memory import peak_memory_gib
from emorec.nn.polarity import ItemPolarity
from emorec.recommender import EmoRec
from emorec.reports.report import write_report
from emorec.run_folder import (
    CHECKPOINT,
    load_items,
    new_files,
    save_config,
    save_items,
    save_split,
)
from emorec.storage.files import to_json, write_text
from emorec.storage.folders import only_writer
from emorec.suggestions import suggestion
from emorec.training.checkpoint import EpochRecord
from emorec.training.parts import selected_score

__all__ = [
    "Comparison",
    "compare_runs",
    "data_card",
    "evaluate_scorer",
    "evaluate_polarity",
    "load_data",
    "prepare",
    "train_run",
    "write_results",
]

_MANY_REPEATS = 0.1  # of the held-out rows; from here on lists without seen items miss the point


@dataclass(frozen=True)
class Comparison:
    """Runs beside baselines, on one test split.

    Attributes:
        results: Evaluations by name of run or baseline.
        predictions: What `evaluate_polarity` returns.
        settings: Those of the baselines, by name.
        notes: Remarks on the results, one line each.
        request_time: Names of the runs whose lists depend on the time of each user's first held-out
            event; all others do not.
    """

    results: dict[str, Evaluation]
    predictions: dict[str, dict[str, float]]
    settings: dict[str, dict[str, float]]
    notes: list[str]
    request_time: list[str]


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
        log, report = read_interactions(options.dataset, **options.reading, rules=rules)
    else:
        raise ConfigError(
            f"data.dataset is {options.dataset!r}, which is neither a file here nor a data set; "
            f"{suggestion(options.dataset, DATASETS)}"
        )
    log = k_core(log, options.min_user_events, options.min_item_events)
    require_choice(log, options.dataset)
    return log, report


def _items_of(options: DataConfig, data_dir: Path | None, items: Vocabulary) -> Items:
    """What the configured file of items holds, else the data set; nothing without either."""
    if options.items:
        found, notes = read_items(options.items, items, **options.reading_items)
    elif (frame := load_data_set_items(options.dataset, data_dir)) is not None:
        table = Table.of_frame(frame, f"data set {options.dataset}")
        found, notes = read_items(table, items, features=options.item_features)
    else:
        require_items(options.item_features)
        return Items()
    for note in notes:
        warnings.warn(note, stacklevel=3)
    return found


def prepare(
    config: Config, folder: Path, data_dir: Path | None = None, progress: bool = True
) -> tuple[Split, ReadReport | None]:
    """Reads and splits the data, and writes what a killed run needs to resume.

    Raises:
        ValueError: If settings do not fit each other, or the data cannot be used.
    """
    check_memory(config, num_users=1, num_items=1, copies=4)
    # Settings that exclude each other fail before the data is read.
    build_model(config, num_users=1, num_items=1)
    log, report = load_data(config.data, data_dir, progress)
    split = split_interactions(log, **config.split.rule)
    items = _items_of(config.data, data_dir, split.train.items)
    with new_files(folder) as written:
        save_config(written, config)
        write_text(written / "versions.json", json.dumps(_versions(), indent=2))
        save_split(written, split)
        save_items(written, items)
    return split, report


def train_run(
    config: Config,
    split: Split,
    folder: Path,
    on_epoch: Callable[[list[EpochRecord]], None] = lambda records: None,
    progress: bool = True,
) -> EmoRec:
    """Trains, or resumes training, in a run folder that `prepare` made.

    Raises:
        FileError: If another process is training there.
    """

    def record(records: list[EpochRecord]) -> None:
        _write_metrics(folder, records)
        on_epoch(records)

    with only_writer(folder):
        recommender = EmoRec(config=config).fit(
            split,
            items=load_items(folder, split.train.items),
            checkpoint=folder / CHECKPOINT,
            on_epoch=record,
            progress=progress,
        )
        recommender.save(folder)  # and removes the results of an earlier model
        _write_metrics(folder, recommender.records)
    return recommender


def _write_metrics(folder: Path, records: list[EpochRecord]) -> None:
    lines = [to_json(asdict(record)) for record in records]
    write_text(folder / "metrics.jsonl", "\n".join(lines) + "\n")


def evaluate_scorer(
    scorer: Scorer,
    split: Split,
    k: int,
    batch_size: int | None = None,
    seen: SeenItems = "exclude",
) -> Evaluation:
    """Evaluates the lists of a scorer that was fitted to the events before the test split."""
    users = np.unique(split.test.user)
    topk = recommend_top_k(
        scorer, users, excluded_items(split.history, seen), k, chunk_size=batch_size
    )
    return evaluate(topk, users, split.test, k)


def compare_runs(runs: Mapping[str, EmoRec], k: int, progress: bool = True) -> Comparison:
    """Evaluates the lists of runs for one test split, beside those of tuned baselines.

    The first run's ``evaluation.seen`` applies to all lists, and its ``evaluation.select`` chooses
    the settings of the baselines.

    Args:
        runs: Recommenders by name.
        k: Length of the lists.
        progress: Whether to show progress bars.

    Raises:
        ValueError: If the runs do not hold the same test split.
    """
    _require_same_test(runs)
    first = next(iter(runs.values()))
    split, options = first.split, first.config.evaluation
    results, settings, notes = {}, {}, []
    names = names_for(split.train.num_items)
    steps = len(runs) + len(names)
    size = users_at_a_time(split.train.num_items)
    with tqdm(
        total=steps, desc="evaluation", unit="model", leave=False, disable=not progress
    ) as bar:
        for name, run in runs.items():
            results[name] = evaluate_scorer(run.scorer(), split, k, size, options.seen)
            bar.update()
        baselines = tuned_baselines(split, k, names, options.select, options.seen, progress)
        for name, baseline in baselines:
            results[name] = evaluate_scorer(baseline.scorer, split, k, seen=options.seen)
            settings[name] = baseline.settings
            if baseline.settings:
                notes.append(f"{name}: {baseline}")
            bar.update()
    timed = [name for name, run in runs.items() if run.config.sequence.request_time]
    notes = [*_note_of_request_time(timed), *_note_of_repeats(split, options.seen), *notes]
    return Comparison(results, evaluate_polarity(runs), settings, notes, timed)


def _note_of_request_time(names: list[str]) -> list[str]:
    """A note on the runs whose lists depend on the time of the held-out events."""
    if not names:
        return []
    return [
        f"{', '.join(names)}: given the time of each user's first held-out event "
        "(sequence.request_time); no other row is"
    ]


def _note_of_repeats(split: Split, seen: SeenItems) -> list[str]:
    """A note on held-out items that their user has seen; none without such items."""
    number, repeats = len(split.test), int(is_repeat(split.test, split.history).sum())
    if not repeats:
        return []
    note = f"{repeats:,} of {number:,} held-out rows are of items that their user has seen"
    is_many = repeats >= _MANY_REPEATS * number
    if seen == "include":
        fits = "which fits this log" if is_many else "although users seldom return to items here"
        return [f"{note}; lists may hold such items (evaluation.seen is 'include'), {fits}"]
    advice = "; users return to items here, so --set evaluation.seen=include fits this log"
    return [
        f"{note}; no list holds them (evaluation.seen is 'exclude'), so none can be hit"
        + (advice if is_many else "")
    ]


def evaluate_polarity(runs: Mapping[str, EmoRec]) -> dict[str, dict[str, float]]:
    """Evaluates the predicted P(positive) of the test events, beside the item prior.

    Args:
        runs: Recommenders with the same test split, by name.

    Returns:
        What `evaluate_predictions` returns, by name, of those that predict the polarity of items.
    """
    predicting = {
        name: run for name, run in runs.items() if isinstance(run.model.polarity, ItemPolarity)
    }
    if not predicting:
        return {}
    split = next(iter(predicting.values())).split
    predictors: dict[str, Scorer] = {
        name: run.scorer().polarity for name, run in predicting.items()
    }
    predictors["ItemPrior"] = ItemPrior().fit(split.history)
    return {name: evaluate_predictions(each, split.test) for name, each in predictors.items()}


def _require_same_test(runs: Mapping[str, EmoRec]) -> None:
    """Checks that all runs have the same test split.

    Raises:
        ValueError: If a run differs from the first one in the held-out events or those before.
    """
    (first, model), *others = runs.items()
    for name, other in others:
        difference = how_tests_differ(other.split, model.split)
        if difference:
            raise ValueError(
                f"{name} cannot be compared with {first}, because its test split differs: "
                f"{difference}{_differing_settings(other.config, model.config)}"
            )


def _differing_settings(one: Config, other: Config) -> str:
    """The settings in which two splits differ, in brackets; empty if there are none."""
    found = []
    for section in ("data", "split"):
        own, its = getattr(one, section).model_dump(), getattr(other, section).model_dump()
        # Each run has its own copy of these, or they have no effect on the split.
        for name in ("rules", "items", "title_column", "item_features"):
            own.pop(name, None)
        found += [f"{section}.{k} is {v!r}, not {its[k]!r}" for k, v in own.items() if v != its[k]]
    return f" ({', '.join(found)})" if found else ""


def write_results(
    folder: Path,
    config: Config,
    split: Split,
    comparison: Comparison,
    records: list[EpochRecord],
) -> None:
    """Writes ``results.json``, with the cost of the run, and ``report.html``."""
    facts = {
        "models": {name: each.summary() for name, each in comparison.results.items()},
        "baselines": comparison.settings,
        "seen": config.evaluation.seen,
        "request_time": comparison.request_time,
        "predicted_polarity": comparison.predictions,
        "epochs": len(records),
        "training_seconds": round(sum(record.seconds for record in records), 1),
        "peak_memory_gib": peak_memory_gib(),
    }
    write_text(folder / "results.json", to_json(facts, indent=2))
    own = [record for record in records if record.part == records[-1].part]
    select = selected_score(config, own[-1].part)
    validated = [record for record in own if record.valid]  # none of a refit
    write_report(
        folder / "report.html",
        title=f"EmoRec: {config.preset} on {Path(config.data.dataset).name}",
        card=data_card(split),
        results=comparison.results,
        predictions=comparison.predictions,
        notes=comparison.notes,
        k=config.evaluation.k,
        curves=[
            {"epoch": record.epoch, "loss": record.loss, select: record.valid.get(select)}
            for record in validated or own  # where the log is too short for a validation split
        ],
        metric=select,
    )


def data_card(split: Split) -> dict[str, str | int | dict[str, int]]:
    """Facts about the data and its splits."""
    history = split.history
    parts = {"train": len(split.train), "valid": len(split.valid), "test": len(split.test)}
    counts = {kind.label: count for kind, count in history.feedback_counts().items()}
    return {
        "users": history.num_users,
        "items": history.num_items,
        "interactions": sum(parts.values()),
        "parts": parts,
        "feedback before the test split": counts,
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
