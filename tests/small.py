"""Small logs and configurations that several tests share."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
from packaging.version import Version

from emorec.config import Config, load_config
from emorec.data.interactions import Interactions, TimeUnit
from emorec.data.sequences import EventSequences
from emorec.data.vocabulary import Vocabulary
from emorec.storage.folders import only_writer
from emorec.training import parts

PANDAS_2 = Version(pd.__version__) < Version("3")
Row = tuple[int, int, int, int]
"""User, item, kind of feedback, time."""


def small_log(
    rows: Sequence[Row], num_users: int, num_items: int, time_unit: TimeUnit = "s"
) -> Interactions:
    """A log written by hand."""
    user, item, feedback, time = np.array(rows, dtype=np.int64).reshape(-1, 4).T
    users, items = Vocabulary(range(num_users)), Vocabulary(range(num_items))
    return Interactions(user, item, feedback, time, users, items, time_unit)


def random_events(
    num_users: int = 7, num_items: int = 9, most_events: int = 8, seed: int = 0
) -> EventSequences:
    """Random histories; the last user has none, items may repeat."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, most_events + 1, num_users)
    counts[-1] = 0
    user = rng.permutation(np.repeat(np.arange(num_users), counts))
    rows = np.stack(
        [
            user,
            rng.integers(num_items, size=len(user)),
            rng.integers(4, size=len(user)),
            rng.integers(10**9, 2 * 10**9, size=len(user)),
        ],
        axis=1,
    )
    return EventSequences.build(small_log(rows.tolist(), num_users, num_items))


BOTH_ENCODERS = (
    "graph.signed=true",
    "model.polarity=item",
    "model.aversion=0.5",
    "sequence.decay=additive",
    "sequence.heads=2",
    "sequence.projections=true",
    "sequence.feedback_input=true",
    "loss.ranking=softmax",
    "loss.targets=any",
    "loss.horizon=2",
    "loss.polarity_decay=0.1",
    "training.averaging=0.9",
)
"""Turns the preset emo-sage-thp into a model that uses everything there is."""


def small_config(*settings: str, preset: str | None = None) -> Config:
    """A model shrunk to what tests can afford, on the torch backend.

    By default it is one with `BOTH_ENCODERS`, which does not change when presets are tuned.
    """
    return load_config(
        preset or "emo-sage-thp",
        settings=(
            "model.backend=torch",
            "model.embedding_size=8",
            "graph.size=8",
            "graph.batch_size=16",
            "sequence.max_length=20",
            "split.n=3",
            "training.epochs=2",
            "training.batch_size=16",
            "training.learning_rate=0.01",
            *(() if preset else BOTH_ENCODERS),
            *settings,
        ),
    )


def interrupt_training(monkeypatch, epoch, error):
    """Raises before the second batch of the n-th epoch that is run."""
    batches, epochs = parts.training_batches, []

    def interrupted(*args):
        epochs.append(args)
        for number, batch in enumerate(batches(*args)):
            if len(epochs) == epoch and number == 1:
                raise error
            yield batch

    monkeypatch.setattr(parts, "training_batches", interrupted)


def torchrun(number: int, *command: str) -> subprocess.CompletedProcess[str]:
    """Runs a script or module on several processes."""
    root = Path(__file__).resolve().parents[1]
    return subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", str(number), *command),
        ],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=400,  # of processes that wait for each other, whatever else the machine does
    )


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Another writer is at work in a folder."""
    is_in, may_go = threading.Event(), threading.Event()

    def hold() -> None:
        with only_writer(folder):
            is_in.set()
            may_go.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert is_in.wait(60)
        yield
    finally:
        may_go.set()
        thread.join()
