"""What a run folder holds, besides what is written once for people to read.

manifest.json              digests of the files that were written together, see below
config.toml                every setting
rules.toml                 the feedback rules, if they were a file of the user's
vocabulary.json            the users' own ids
titles.json                titles of the items, if they have any: in the order of the vocabulary,
                           then of the cold items
cold_items.json            ids of the cold items, if the items have features
features.safetensors       features of the items, then of the cold items
cold_items.safetensors     what was predicted for the cold items, once the model is trained
interactions.safetensors   the splits of the log
model.safetensors          the best epoch's parameters
checkpoint.safetensors     the state of training
start/                     of an update: the run that it started from

All but the checkpoint are replaced all at once or not at all. Each file of tensors holds
a digest of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import sparse

from emorec.config import Config, load_config
from emorec.data.features import NUM_FEATURES, ItemFeatures
from emorec.data.interactions import Interactions
from emorec.data.items import Items
from emorec.data.rules import shipped_rules
from emorec.data.splits import Split
from emorec.data.titles import Titles
from emorec.data.vocabulary import Vocabulary
from emorec.storage.files import FileError, one_line, read_json, read_text, write_text
from emorec.storage.folders import checked_file, read_manifest, replace_files
from emorec.storage.tensors import load_tensors, save_tensors

__all__ = [
    "CHECKPOINT",
    "START",
    "existing_file",
    "load_cold_rows",
    "load_items",
    "load_split",
    "load_titles",
    "new_files",
    "read_config",
    "save_cold_rows",
    "save_config",
    "save_items",
    "save_split",
    "save_titles",
]

CHECKPOINT = "checkpoint.safetensors"
START = "start"
"""Folder within that of an update: the run that training started from."""

_RULES = "rules.toml"
_TITLES = "titles.json"
_COLD_IDS = "cold_items.json"
_FEATURES = "features.safetensors"
_COLD_ROWS = "cold_items.safetensors"
_OF_A_MODEL = (
    "config.toml",
    _RULES,
    "vocabulary.json",
    _TITLES,
    _COLD_IDS,
    _FEATURES,
    _COLD_ROWS,
    "interactions.safetensors",
    "model.safetensors",
    "metrics.jsonl",
    "results.json",
    "report.html",
)
_SHOWN = 20  # names of files, in errors
_PARTS = ("train", "valid", "test")
_COLUMNS = ("user", "item", "feedback", "time")


@contextmanager
def new_files(folder: Path) -> Iterator[Path]:
    """Replaces the files of a run that describe its model, all at once; see `replace_files`.

    Results of an earlier model that are not written again are removed with it.

    Yields:
        The folder to write the new files into.
    """
    is_run = (folder / "vocabulary.json").exists()  # otherwise such files are not of a run
    with replace_files(folder, _OF_A_MODEL if is_run else ()) as written:
        yield written


def read_config(folder: Path) -> Config:
    """The configuration of a run folder, whose own copy of the rules counts.

    Raises:
        FileError: If it is missing.
        ConfigError: If it is damaged.
    """
    config = load_config(file=existing_file(folder, "config.toml"))
    if not _has(folder, _RULES):
        return config
    rules = existing_file(folder, _RULES)
    return config.updated({"data": {"rules": str(rules)}}, _RULES)


def save_config(folder: Path, config: Config) -> None:
    """Writes ``config.toml``, and a copy of the user's rules, whose file may change."""
    rules, copy = config.data.rules, folder / _RULES
    if rules in ("", *shipped_rules()):
        copy.unlink(missing_ok=True)
    elif Path(rules).is_file():
        write_text(copy, read_text(Path(rules)))
    write_text(folder / "config.toml", config.to_toml())


def save_split(folder: Path, split: Split) -> None:
    """Writes ``interactions.safetensors`` and ``vocabulary.json``."""
    train = split.train
    vocabulary = {"users": train.users.ids, "items": train.items.ids}
    write_text(folder / "vocabulary.json", json.dumps(vocabulary, ensure_ascii=False))
    tensors = {
        # copied, as splits that a caller made may share memory
        f"{part}.{column}": torch.tensor(getattr(getattr(split, part), column))
        for part in _PARTS
        for column in _COLUMNS
    }
    about = {"time_unit": train.time_unit, "dropped": split.dropped}
    save_tensors(folder / "interactions.safetensors", tensors, about)


def load_split(folder: Path) -> Split:
    """Reads what `save_split` wrote; the split's report is not kept.

    Raises:
        FileError: If a file is missing or damaged.
    """
    path = existing_file(folder, "vocabulary.json")
    tensors, about = load_tensors(existing_file(folder, "interactions.safetensors"))
    try:
        vocabulary = read_json(path)
        users, items = (Vocabulary(_ids(vocabulary, name)) for name in ("users", "items"))
        train, valid, test = (
            Interactions(
                **{column: tensors[f"{part}.{column}"].numpy() for column in _COLUMNS},
                users=users,
                items=items,
                time_unit=about["time_unit"],
            )
            for part in _PARTS
        )
        dropped = about["dropped"]
        if not isinstance(dropped, int):
            raise TypeError(f"the number of dropped rows is {dropped!r}")
        return Split(train, valid, test, dropped=dropped)
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise FileError(
            f"{folder}: vocabulary.json or interactions.safetensors is damaged, "
            f"or the two are of different runs ({one_line(error)})"
        ) from error


def save_titles(folder: Path, titles: Titles | None) -> None:
    """Writes ``titles.json``, if there are titles."""
    if titles is not None:
        write_text(folder / _TITLES, json.dumps(titles.texts.tolist(), ensure_ascii=False))


def load_titles(folder: Path, items: Vocabulary) -> Titles | None:
    """Reads what `save_titles` wrote; None if the run has no titles.

    Raises:
        FileError: If the file is missing, damaged or of other items.
    """
    if not _has(folder, _TITLES):
        return None
    path = existing_file(folder, _TITLES)
    texts = read_json(path)
    if not isinstance(texts, list) or not all(isinstance(each, str | None) for each in texts):
        raise FileError(f"{path}: is damaged: not a list of texts")
    if len(texts) != len(items):
        raise FileError(
            f"{path}: has {len(texts):,} titles for {len(items):,} items; it is of another run "
            "than vocabulary.json"
        )
    found = np.empty(len(texts), dtype=object)
    found[:] = texts
    return Titles(found, items)


def save_items(folder: Path, items: Items) -> None:
    """Writes the titles, the features and the ids of the cold items, if there are any."""
    save_titles(folder, items.titles)
    features = items.features
    if features is None:
        return
    cold = features.items.ids[features.num_warm :]
    write_text(folder / _COLD_IDS, json.dumps(cold, ensure_ascii=False))
    matrix = features.matrix
    tensors = {
        name: torch.from_numpy(np.array(getattr(matrix, name)))
        for name in ("data", "indices", "indptr")
    }
    save_tensors(folder / _FEATURES, tensors, {})


def load_items(folder: Path, items: Vocabulary) -> Items:
    """Reads what `save_items` wrote.

    Args:
        folder: The run folder.
        items: The items of the log.

    Raises:
        FileError: If a file is missing, damaged or of other items.
    """
    if not _has(folder, _FEATURES):
        return Items(load_titles(folder, items))
    path = existing_file(folder, _FEATURES)
    cold = read_json(existing_file(folder, _COLD_IDS))
    tensors, _ = load_tensors(path)
    try:
        every = Vocabulary([*items.ids, *_ids({"cold items": cold}, "cold items")])
        parts = tuple(tensors[name].numpy() for name in ("data", "indices", "indptr"))
        matrix = sparse.csr_matrix(parts, shape=(len(every), NUM_FEATURES))
        matrix.check_format()
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise FileError(
            f"{folder}: {_FEATURES} or {_COLD_IDS} is damaged, or of another run than "
            f"vocabulary.json ({one_line(error)})"
        ) from error
    return Items(load_titles(folder, every), ItemFeatures(matrix, every, len(items)))


def save_cold_rows(folder: Path, rows: dict[str, torch.Tensor]) -> None:
    """Writes what was predicted for the cold items."""
    save_tensors(folder / _COLD_ROWS, rows, {})


def load_cold_rows(folder: Path) -> dict[str, torch.Tensor] | None:
    """Reads what `save_cold_rows` wrote; None if the run has no cold items.

    Raises:
        FileError: If the file is missing or damaged.
    """
    if not _has(folder, _COLD_ROWS):
        return None
    return load_tensors(existing_file(folder, _COLD_ROWS))[0]


def _has(folder: Path, name: str) -> bool:
    """Whether a run has a file that not every run has."""
    written = read_manifest(folder)
    return name in written if written is not None else (folder / name).exists()


def _ids(vocabulary: Any, name: str) -> list[Any]:
    ids = vocabulary[name]
    if not isinstance(ids, list) or not all(type(each) in (int, str) for each in ids):
        raise TypeError(f"{name} is not a list of numbers and texts")
    return ids


def existing_file(folder: Path, name: str) -> Path:
    """A file of a run folder, which is the one that was written with the others.

    Raises:
        FileError: If the folder or the file is not there, with what is; or it is another one.
    """
    if not folder.is_dir():
        raise FileError(f"{folder}: no such run folder")
    path = checked_file(folder, name)
    if path is None:
        present = sorted(e.name for e in folder.iterdir() if not e.name.startswith("."))
        shown = ", ".join(present[:_SHOWN]) + (", ..." if len(present) > _SHOWN else "")
        raise FileError(f"{folder}: {name} is missing (the folder holds {shown or 'nothing'})")
    return path
