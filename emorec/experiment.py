"""A whole run: reads data, trains a model, evaluates it beside baselines, writes a folder."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

from emorec.building import build_model, check_memory
from emorec.comparison import Comparison
from emorec.config import Config, ConfigError
from emorec.data.datasets import DATASETS, read_dataset
from emorec.data.datasets import load_items as load_data_set_items
from emorec.data.interactions import Interactions, k_core, require_choice
from emorec.data.items import Items, read_items, require_items
from emorec.data.prepared import is_prepared, read_prepared
from emorec.data.readers import ReadReport, read_interactions
from emorec.data.splits import Split, split_interactions
from emorec.data.stores import is_store, read_store
from emorec.data.tables import Table
from emorec.data.vocabulary import Vocabulary
from emorec.memory import peak_memory_gib
from emorec.processes import ALONE, World
from emorec.recommender import EmoRec
from emorec.run_folder import (
    CHECKPOINT,
    START,
    load_items,
    new_files,
    save_config,
    save_items,
    save_split,
)
from emorec.run_report import versions, write_run_report
from emorec.settings import DataConfig
from emorec.storage.files import to_json, write_text
from emorec.storage.folders import only_writer
from emorec.suggestions import suggestion
from emorec.training.checkpoint import EpochRecord
from emorec.training.shares import shared_split

__all__ = ["begin_run", "load_data", "prepare", "train_run", "write_results"]


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
    elif is_prepared(options.dataset):
        log, report = read_prepared(options.dataset)
    elif is_store(options.dataset):
        log, report = read_store(options.dataset)
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
    config: Config,
    folder: Path,
    data_dir: Path | None = None,
    progress: bool = True,
    world: World = ALONE,
) -> tuple[Split, ReadReport | None]:
    """Reads and splits the data, and writes what a killed run needs to resume.

    Of several processes, the first one writes. It alone reads a prepared log, and sends the others
    the events of their users; of other data, each process reads all.

    Raises:
        ValueError: If settings do not fit each other, or the data cannot be used.
    """
    check_memory(config, num_users=1, num_items=1, copies=4)
    # Settings that exclude each other fail before the data is read.
    build_model(config, num_users=1, num_items=1)
    is_shared = world.first_says("shared" if is_prepared(config.data.dataset) else "") == "shared"
    if is_shared:
        world.require_same({"data": config.data.dataset})
        if not world.is_first:
            return shared_split(None, world), None
    log, report = load_data(config.data, data_dir, progress)
    split = split_interactions(log, **config.split.rule)
    items = _items_of(config.data, data_dir, split.train.items)
    if world.is_first:
        begin_run(folder, config, split, items)
    return shared_split(split, world) if is_shared else split, report


def begin_run(folder: Path, config: Config, split: Split, items: Items) -> None:
    """Writes what a killed run needs to resume."""
    with new_files(folder) as written:
        save_config(written, config)
        write_text(written / "versions.json", json.dumps(versions(), indent=2))
        save_split(written, split)
        save_items(written, items)


def train_run(
    config: Config,
    split: Split,
    folder: Path,
    on_epoch: Callable[[list[EpochRecord]], None] = lambda records: None,
    progress: bool = True,
    world: World = ALONE,
) -> EmoRec:
    """Trains, or resumes training, in a run folder that `prepare` made.

    Of several processes, the first one writes; the folder may be on its machine alone, unless
    training is resumed.

    Raises:
        FileError: If another process is training there.
    """

    def record(records: list[EpochRecord]) -> None:
        _write_metrics(folder, records)
        on_epoch(records)

    with only_writer(folder) if world.is_first else nullcontext():
        is_update = world.is_first and (folder / START).is_dir()
        start = EmoRec.load(folder / START) if is_update else None
        recommender = EmoRec(config=config).fit(
            split,
            start=start,
            items=load_items(folder, split.train.items) if world.is_first else Items(),
            checkpoint=folder / CHECKPOINT,
            on_epoch=record,
            progress=progress,
            world=world,
        )
        if world.is_first:
            recommender.save(folder)  # and removes the results of an earlier model
            _write_metrics(folder, recommender.records)
    return recommender


def _write_metrics(folder: Path, records: list[EpochRecord]) -> None:
    lines = [to_json(asdict(record)) for record in records]
    write_text(folder / "metrics.jsonl", "\n".join(lines) + "\n")


def write_results(
    folder: Path,
    recommender: EmoRec,
    comparison: Comparison,
    *,
    command: str = "",
    date: str = "",
) -> None:
    """Writes ``results.json``, with the cost of the run, and ``report.html``.

    Args:
        folder: The run folder.
        recommender: The run, the first of the comparison, as `train_run` returned it.
        comparison: The run beside baselines.
        command: The command line of the run, for the report; empty if there is none.
        date: The date of the run, likewise.
    """
    config, records = recommender.config, recommender.records
    facts = {
        "models": {name: each.summary() for name, each in comparison.results.items()},
        "baselines": comparison.settings,
        "seen": config.evaluation.seen,
        "request_time": comparison.request_time,
        "predicted_polarity": comparison.predictions,
        "popularity": comparison.popularity,
        "epochs": len(records),
        "training_seconds": round(sum(record.seconds for record in records), 1),
        "peak_memory_gib": peak_memory_gib(),
    }
    write_text(folder / "results.json", to_json(facts, indent=2))
    write_run_report(folder, recommender, comparison, command, date)
