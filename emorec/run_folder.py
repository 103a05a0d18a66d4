"""What a run folder holds, besides what is written once for people to read.

config.toml                every setting
rules.toml                 the feedback rules, if they were a file of the user's
vocabulary.json            the users' own ids
interactions.safetensors   the parts of the log
model.safetensors          the best epoch's parameters
checkpoint.safetensors     where training goes on
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from emorec.config import Config, load_config
from emorec.data.interactions import Interactions
from emorec.data.rules import shipped_rules
from emorec.data.splits import Split
from emorec.data.vocabulary import Vocabulary
from emorec.files import FileError, load_tensors, save_tensors, write_text

__all__ = ["CHECKPOINT", "existing_file", "load_split", "read_config", "save_config", "save_split"]

CHECKPOINT = "checkpoint.safetensors"
_RULES = "rules.toml"
_PARTS = ("train", "valid", "test")
_COLUMNS = ("user", "item", "feedback", "time")


def read_config(folder: Path) -> Config:
    """The configuration of a run folder, whose own copy of the rules counts.

    Raises:
        FileError: If it is missing.
        ConfigError: If it is damaged.
    """
    config = load_config(file=existing_file(folder, "config.toml"))
    rules = folder / _RULES
    return config.updated({"data": {"rules": str(rules)}}, _RULES) if rules.is_file() else config


def save_config(folder: Path, config: Config) -> None:
    """Writes ``config.toml``, and a copy of the user's rules: what they say may change."""
    rules, copy = config.data.rules, folder / _RULES
    if rules in ("", *shipped_rules()):
        copy.unlink(missing_ok=True)
    elif Path(rules).is_file():
        write_text(copy, Path(rules).read_text(encoding="utf-8"))
    write_text(folder / "config.toml", config.to_toml())


def save_split(folder: Path, split: Split) -> None:
    """Writes ``interactions.safetensors`` and ``vocabulary.json``."""
    train = split.train
    vocabulary = {"users": train.users.ids, "items": train.items.ids}
    write_text(folder / "vocabulary.json", json.dumps(vocabulary, ensure_ascii=False))
    tensors = {
        # copied, as parts of a split made by hand may share memory
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
        vocabulary = json.loads(path.read_text(encoding="utf-8"))
        users, items = Vocabulary(vocabulary["users"]), Vocabulary(vocabulary["items"])
        train, valid, test = (
            Interactions(
                **{column: tensors[f"{part}.{column}"].numpy() for column in _COLUMNS},
                users=users,
                items=items,
                time_unit=about["time_unit"],
            )
            for part in _PARTS
        )
        return Split(train, valid, test, dropped=about["dropped"])
    except (ValueError, KeyError, TypeError) as error:
        raise FileError(
            f"{folder}: vocabulary.json or interactions.safetensors is damaged, "
            f"or the two are of different runs ({error})"
        ) from error


def existing_file(folder: Path, name: str) -> Path:
    """A file of a run folder.

    Raises:
        FileError: If the folder or the file is not there, with what is.
    """
    if not folder.is_dir():
        raise FileError(f"{folder}: no such run folder")
    path = folder / name
    if not path.is_file():
        present = ", ".join(sorted(entry.name for entry in folder.iterdir())) or "nothing"
        raise FileError(f"{folder}: {name} is missing (the folder holds {present})")
    return path
