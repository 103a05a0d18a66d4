"""What EmoRec writes: operations on a folder, and what a reader finds there before and after."""

from __future__ import annotations

import shutil
import tempfile
import urllib.request
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from emorec import EmoRec, cli
from emorec.config import load_config
from emorec.data.describe import describe
from emorec.data.download import download
from emorec.data.synthetic import generate
from emorec.run_folder import CHECKPOINT
from emorec.storage.folders import checked_file, read_manifest
from emorec.storage.tensors import load_tensors, save_tensors
from tests.cli.commands import TINY, call, log_lines, write_log
from tests.small import small_config

__all__ = [
    "LOG", "OPERATIONS", "Operation", "command", "files_of", "fitted", "operation", "outputs_of",
    "run_of", "trying",
]  # fmt: skip

Act = Callable[[Path], str]

LOG = generate(num_users=20, num_items=45, num_topics=8, events_per_user=10).interactions


KEPT = tempfile.TemporaryDirectory(prefix="emorec-operations-")
"""Folders of `new_folder`, until the tests end."""


def new_folder() -> Path:
    """A folder that is not one of those where something fails."""
    return Path(tempfile.mkdtemp(dir=KEPT.name))


@dataclass(frozen=True)
class Operation:
    """Something that writes into a folder.

    Attributes:
        act: Does it; returns its error, "" if it succeeded.
        state: What a reader finds in the folder; raises if it is half of something.
        again: What is done after a fault, if it is not the same.
        cleans: Whether it promises to remove what a killed process left behind.
    """

    act: Act
    state: Callable[[Path], Any]
    again: Act | None = None
    cleans: bool = True


@cache
def fitted(seed: int) -> EmoRec:
    """A model; another seed gives another one."""
    config = small_config(
        "training.epochs=1", "model.embedding_size=4", f"training.seed={seed}",
        preset="emorec-graph",
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return EmoRec(config=config).fit(LOG, progress=False)


@cache
def trained() -> Path:
    """The run folder of a command that has trained a model, which others may copy or read."""
    folder = new_folder()
    data = write_log(folder / "log.csv", log_lines())
    result = call(cli.train, "--dataset", data, "--epochs", 1, "--run-dir", folder / "run", *TINY)
    assert result.exit_code == 0, result.output
    return folder / "run"


def run_of(folder: Path) -> dict[str, Any] | None:
    """What the files of a run hold, tensors in any order; None if there is no run yet."""
    found: dict[str, Any] | None = written_together(folder / "run")
    if found is None:
        return None
    for name in found:
        if name.endswith(".safetensors"):
            found[name] = tensors_of(checked_file(folder / "run", name))
    return found


def tensors_of(path: Path | None) -> dict[str, bytes]:
    """The tensors of a file."""
    assert path is not None
    return {key: each.numpy().tobytes() for key, each in load_tensors(path)[0].items()}


def written_together(folder: Path) -> dict[str, Any] | None:
    """The files that a reader takes, each of which must be that of the manifest."""
    if not folder.exists() or (manifest := read_manifest(folder)) is None:
        return None
    found = {name: checked_file(folder, name) for name in manifest}
    return {name: path.read_bytes() for name, path in found.items() if path is not None}


def outputs_of(folder: Path) -> dict[str, Any] | None:
    """What was written into the folder ``out``."""
    return written_together(folder / "out")


def files_of(folder: Path) -> dict[str, bytes]:
    """All files that can be seen and what they hold."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(".lock")
    }


def seen_in(folder: Path) -> dict[str, bytes]:
    """All files but hidden ones: a killed process may leave temporary files."""
    return {name: data for name, data in files_of(folder).items() if "/." not in f"/{name}"}


def trying(act: Callable[[Path], object], errors: Any = (OSError, ValueError)) -> Act:
    """Returns the error of an operation."""

    def run(folder: Path) -> str:
        try:
            act(folder)
        except errors as error:
            return str(error)
        return ""

    return run


def command(*arguments: Any) -> Act:
    """Runs a command; ``FOLDER`` in arguments is the folder."""

    def run(folder: Path) -> str:
        own = [str(each).replace("FOLDER", str(folder)) for each in arguments[1:]]
        result = call(arguments[0], *own)
        if result.exit_code == 0:
            return ""
        assert result.exit_code in (1, 2) and "Error: " in result.stderr, result.output
        return str(result.stderr)

    return run


def saving(folder: Path) -> Operation:
    """`EmoRec.save` into a folder that is not there yet."""
    fitted(1)
    return Operation(trying(lambda own: fitted(1).save(own / "run")), run_of)


def saving_over(folder: Path) -> Operation:
    """`EmoRec.save` over another run, one of whose files is not written again."""
    fitted(0).save(folder / "run")
    (folder / "run" / "results.json").write_text("{}")

    def act(own: Path) -> None:
        fitted(1).save(own / "run")
        assert not (own / "run" / "results.json").exists()  # of the other model

    def state(own: Path) -> Any:
        EmoRec.load(own / "run")
        return run_of(own)

    return Operation(trying(act), state)


def checkpoint(folder: Path) -> Operation:
    """A checkpoint over that of the epoch before."""
    tensors = {"a": torch.arange(300.0), "b": torch.ones(3, 2)}
    save_tensors(folder / CHECKPOINT, tensors, {"epoch": 1})
    later = {name: each + 1 for name, each in tensors.items()}
    act = trying(lambda own: save_tensors(own / CHECKPOINT, later, {"epoch": 2}))
    return Operation(act, lambda own: tensors_of(own / CHECKPOINT), cleans=False)


def converting(folder: Path, suffix: str, is_new: bool) -> Operation:
    """``emorec data convert``."""
    write_log(folder / "log.csv", log_lines())
    if not is_new:
        (folder / f"out.{suffix}").write_text("old")
    act = command(cli.main, "data", "convert", "FOLDER/log.csv", "--output", f"FOLDER/out.{suffix}")
    return Operation(act, seen_in, cleans=False)


def splitting(folder: Path) -> Operation:
    """``emorec data split`` over an earlier split of other formats."""
    write_log(folder / "log.csv", log_lines())
    act = "data", "split", "FOLDER/log.csv", "--output", "FOLDER/out"
    old = command(cli.main, *act, "--set", "split.n=1", "--format", "jsonl")
    assert not old(folder)
    return Operation(command(cli.main, *act, "--set", "split.n=2"), outputs_of)


def preparing(folder: Path, is_new: bool) -> Operation:
    """``emorec data prepare``, of two files."""
    pytest.importorskip("duckdb")
    pytest.importorskip("pyarrow")
    lines = log_lines()
    write_log(folder / "a.csv", lines[:40])
    write_log(folder / "b.csv", lines[40:])
    start = cli.main, "data", "prepare", "FOLDER/a.csv", "FOLDER/b.csv", "--output", "FOLDER/out"
    if not is_new:
        assert not command(*start, "--parts", 3)(folder)
    return Operation(command(*start, "--parts", 2), outputs_of)


def downloading(folder: Path) -> Operation:
    """A download whose checksum is not published."""
    source = new_folder() / "a.zip"
    source.write_bytes(b"content" * 1000)

    class Opener:
        def open(self, request: Any, timeout: float) -> Any:
            return urllib.request.urlopen(source.as_uri())

    def act(own: Path) -> None:
        with warnings.catch_warnings(), mock.patch("emorec.data.download._OPENER", Opener()):
            warnings.simplefilter("ignore")
            download("https://example.org/a", own / "data" / "a.zip", progress=False)

    def state(own: Path) -> Any:
        """The download, with the digest that was recorded for it."""
        path = own / "data" / "a.zip"
        if not path.exists():
            return None
        return path.read_bytes(), (own / "data" / "a.zip.sha256").read_text()

    return Operation(trying(act, ValueError), state, cleans=False)


def listing(folder: Path, suffix: str) -> Operation:
    """``emorec-recommend`` into a file."""
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    act = command(
        cli.recommend, trained(), "--all-users", "-k", 3, "--output", f"FOLDER/new/out.{suffix}"
    )
    return Operation(act, seen_in, cleans=False)


def listing_parts(folder: Path) -> Operation:
    """``emorec-recommend --parts``: every file that is there is whole."""
    act = command(
        cli.recommend, trained(), "--all-users", "-k", 3,
        "--output", "FOLDER/out", "--format", "csv", "--parts", 3,
    )  # fmt: skip
    goal = new_folder()
    assert not act(goal)
    whole = {name: text for name, text in files_of(goal).items() if "part-" in name}
    shutil.rmtree(goal)

    def state(own: Path) -> bool:
        found = {name: text for name, text in seen_in(own).items() if "part-" in name}
        assert found.items() <= whole.items()
        return found == whole

    return Operation(act, state, cleans=False)


def exporting(folder: Path, vectors: str) -> Operation:
    """``emorec export`` over an earlier export."""
    if vectors == "parquet":
        pytest.importorskip("pyarrow")
    start = cli.main, "export", trained(), "--output", "FOLDER/out"
    if vectors == "parquet":
        assert not command(*start, "--vectors", "npz")(folder)
    return Operation(command(*start, "--vectors", vectors), outputs_of)


def describing(folder: Path) -> Operation:
    """``emorec data describe --output`` over the description of another log."""
    for most in (10, 100):
        lines = [f"u{n % 7},i{n % 11},{n % (most + 1)},{10**9 + n}" for n in range(999)]
        write_log(folder / f"to-{most}.csv", lines)
    describe(folder / "to-10.csv").write(folder / "out")
    act = command(cli.main, "data", "describe", "FOLDER/to-100.csv", "--output", "FOLDER/out")

    def state(own: Path) -> Any:
        """The settings with the rules that they name."""
        data = load_config(file=own / "out" / "config.toml").data
        return Path(data.dataset).name, (own / "out" / Path(data.rules).name).read_text()

    return Operation(act, state, cleans=False)


def training(folder: Path) -> Operation:
    """``emorec-train``."""
    write_log(folder / "log.csv", log_lines())
    train = command(
        cli.train, "--dataset", "FOLDER/log.csv", "--run-dir", "FOLDER/run", "--epochs", 1,
        "--quiet", *TINY,
    )  # fmt: skip
    return Operation(train, model_of, resuming(train))


def training_on(folder: Path) -> Operation:
    """``emorec-train --resume`` for one more epoch."""
    shutil.copytree(trained(), folder / "run")
    train = command(cli.train, "--resume", "FOLDER/run", "--epochs", 2, "--quiet")
    return Operation(train, model_of)


def updating(folder: Path) -> Operation:
    """``emorec-train --continue``."""
    lines = [line.replace(",10", ",20").replace(",1", ",2", 1) for line in log_lines(events=4)]
    write_log(folder / "today.csv", lines)
    train = command(
        cli.train, "--continue", trained(), "--events", "FOLDER/today.csv",
        "--run-dir", "FOLDER/run", "--quiet",
    )  # fmt: skip
    return Operation(train, model_of, resuming(train))


def resuming(train: Act) -> Act:
    """Training goes on, if it has begun."""
    resume = command(cli.train, "--resume", "FOLDER/run", "--quiet")

    def again(folder: Path) -> str:
        error = train(folder)
        return resume(folder) if "or use --resume" in error else error

    return again


def model_of(folder: Path) -> Any:
    """The parameters of a run that loads, if there is one; checkpoints are whole."""
    for path in (folder / "run").glob("checkpoint*.safetensors"):
        load_tensors(path)
    if not (folder / "run").exists() or checked_file(folder / "run", "model.safetensors") is None:
        return None
    model = EmoRec.load(folder / "run").model
    return {name: each.tolist() for name, each in model.state_dict().items()}


OPERATIONS: dict[str, Callable[[Path], Operation]] = {
    "save": saving,
    "save over": saving_over,
    "checkpoint": checkpoint,
    "convert to csv": lambda folder: converting(folder, "csv", True),
    "convert over jsonl": lambda folder: converting(folder, "jsonl", False),
    "convert over parquet": lambda folder: converting(folder, "parquet", False),
    "split over": splitting,
    "prepare": lambda folder: preparing(folder, True),
    "prepare over": lambda folder: preparing(folder, False),
    "download": downloading,
    "lists as csv": lambda folder: listing(folder, "csv"),
    "lists as jsonl": lambda folder: listing(folder, "jsonl"),
    "lists as parquet": lambda folder: listing(folder, "parquet"),
    "lists in parts": listing_parts,
    "export": lambda folder: exporting(folder, "npz"),
    "export over": lambda folder: exporting(folder, "parquet"),
    "describe over": describing,
    "train": training,
    "resume": training_on,
    "continue": updating,
}
"""By name; each takes an empty folder, and puts there what is there before it."""


def operation(name: str, folder: Path) -> Operation:
    """Makes a folder and returns an operation on it."""
    folder.mkdir()
    return OPERATIONS[name](folder)
