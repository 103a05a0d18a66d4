"""The report of a run: gathers what the page shows of its model, training and lists."""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from emorec import __version__
from emorec.building import backend_for
from emorec.config import Config, load_config
from emorec.data.requests import first_times
from emorec.data.splits import Split
from emorec.inference.examples import EXPLAINED_EVENTS, choose_users, examples_of
from emorec.inference.learned import learned_tables
from emorec.recommender import EmoRec
from emorec.reports.curves import Curves
from emorec.reports.examples import Example
from emorec.reports.head import Head
from emorec.reports.report import write_report
from emorec.run_folder import load_items
from emorec.texts import count
from emorec.training.checkpoint import EpochRecord, is_refit
from emorec.training.parts import chosen_epochs, selected_score

if TYPE_CHECKING:
    from emorec.comparison import Comparison

__all__ = [
    "changed_settings",
    "curves_of",
    "data_card",
    "name_of_path",
    "versions",
    "write_run_report",
]

_USERS, _PLACES = 5, 10  # of the longest lists that are shown


def write_run_report(
    folder: Path, recommender: EmoRec, comparison: Comparison, command: str, date: str
) -> None:
    """Writes ``report.html``.

    Args:
        folder: The run folder.
        recommender: The run, the first of the comparison.
        comparison: The run beside baselines.
        command: The command line; empty if there is none.
        date: The date of the run; it is shown as it is given.
    """
    config, split = recommender.config, recommender.split
    lists = next(iter(comparison.lists.values()))
    examples = _examples(folder, recommender, lists.items.numpy())
    write_report(
        folder / "report.html",
        title=f"EmoRec: {config.preset} on {Path(config.data.dataset).name}",
        head=_head(config, recommender.records, command, date),
        card=data_card(split),
        results=comparison.results,
        k=config.evaluation.k,
        predictions=comparison.predictions,
        calibration=comparison.calibration,
        popularity=comparison.popularity,
        learned=learned_tables(recommender.model, split.train.time_unit),
        curves=curves_of(config, recommender.records),
        examples=examples,
        examples_note=_examples_note(config.training.seed, examples),
        notes=comparison.notes,
    )


def curves_of(config: Config, records: Sequence[EpochRecord]) -> list[Curves]:
    """The curves of each part of a training, in order, with its refit."""
    chosen = chosen_epochs(config, list(records))
    curves = []
    for part in dict.fromkeys(record.part for record in records):
        own = [record for record in records if record.part == part]
        first = [record for record in own if not is_refit(record, records)]
        select = selected_score(config, part)
        curves.append(
            Curves(
                part=part,
                metric=select,
                losses=[record.loss for record in first],
                scores=[record.valid.get(select) for record in first],
                refit_from=chosen.get(part, 0),
                refit_losses=[record.loss for record in own if is_refit(record, records)],
            )
        )
    return curves


def changed_settings(config: Config) -> dict[str, str]:
    """Settings that differ from the preset, as text; files are shown by their name alone."""
    own, usual = config.model_dump(), load_config(config.preset).model_dump()
    return {
        f"{section}.{key}": name_of_path(_text(value))
        for section, values in own.items()
        if isinstance(values, dict)
        for key, value in values.items()
        if value != usual[section][key]
    }


def name_of_path(text: str) -> str:
    """An absolute path's last part, also behind ``NAME=``; any other text as it is.

    A report that is passed on shows no folders of the machine.
    """
    before, equals, path = text.rpartition("=")
    return f"{before}{equals}{Path(path).name}" if Path(path).is_absolute() else text


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


def versions() -> dict[str, str]:
    """Versions of Python, of the machine's system and of packages, and the number of threads."""
    packages = ["emorec", "torch", "dgl", "numpy", "pandas", "scipy"]
    installed = {dist.metadata["Name"].lower(): dist.version for dist in metadata.distributions()}
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "threads": str(torch.get_num_threads()),
        **{name: installed[name] for name in packages if name in installed},
    }


def _head(config: Config, records: Sequence[EpochRecord], command: str, date: str) -> Head:
    found = versions()
    uses_dgl = config.graph.conv != "none" and backend_for(config) == "dgl"
    minutes, seconds = divmod(round(sum(record.seconds for record in records)), 60)
    facts = {
        "date": date,
        "training": f"{minutes} min {seconds} s, {count(len(records), 'epoch')}",
        "machine": f"{config.training.device}, {count(int(found['threads']), 'thread')}",
        "EmoRec": __version__,
        "Python": found["python"],
        "PyTorch": found["torch"],
        "DGL": found.get("dgl", "") if uses_dgl else "without DGL",
    }
    shown = {name: value for name, value in facts.items() if value}
    return Head(shown, command, config.preset, changed_settings(config))


def _examples(folder: Path, recommender: EmoRec, lists: np.ndarray) -> list[Example]:
    config, split = recommender.config, recommender.split
    users = choose_users(split.history, split.test, _USERS, config.training.seed)
    timed = config.sequence.request_time
    return examples_of(
        recommender.model,
        split.history,
        split.test,
        users,
        lists[np.searchsorted(np.unique(split.test.user), users), :_PLACES],
        first_times(split.test, split.history) if timed else None,
        config.training.device,
        load_items(folder, split.train.items).titles,
    )


def _examples_note(seed: int, examples: Sequence[Example]) -> str:
    """How the users were chosen, and what is shown of them."""
    have_reasons = any(item.reason for example in examples for item in example.items)
    return (
        "Test users with a dislike in their history (all test users if too few have one), ordered "
        f"by its length and cut into {_USERS} groups of equal size, of which each gives one at "
        f"random (seed {seed}). At most the first {_PLACES} places of their lists are shown. "
        + (
            f"Below an item is the event, of the newest {EXPLAINED_EVENTS}, without which its "
            "score would fall most. "
            if have_reasons
            else "This model's lists cannot be explained by single events. "
        )
        + "Marked items are held out, with the feedback that the user gave."
    )


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
