"""The files that pass between EmoRec and its peers; needs NumPy alone.

A peer reads a task, learns, and writes lists. It never sees what is held out: EmoRec's own
evaluation scores the lists, those of the validation split as well as those of the test split.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["Lists", "Settings", "Task", "Train", "serve", "top_k"]

Settings = dict[str, Any]
"""Hyper-parameters of one run, with ``seed`` and ``epochs``, the ascending epochs to report."""


@dataclass(frozen=True)
class Task:
    """What a peer is given: the events, and the users to recommend to.

    Attributes:
        user: Users of the events, int64 ``[N]``, in 0 .. num_users - 1, ascending.
        item: Items of the events, int64 ``[N]``, in 0 .. num_items - 1; each user's oldest first.
        liked: Whether the feedback of each event is positive, bool ``[N]``.
        users: Users who want a list, int64 ``[U]``.
        num_users: Users there are, those without an event included.
        num_items: Items there are, those without an event included.
        k: Length of the lists.
    """

    user: np.ndarray
    item: np.ndarray
    liked: np.ndarray
    users: np.ndarray
    num_users: int
    num_items: int
    k: int

    def save(self, path: Path) -> None:
        """Writes the task as .npz."""
        np.savez_compressed(path, **vars(self))

    @classmethod
    def load(cls, path: Path) -> Task:
        """Reads what `save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            columns = {name: file[name] for name in ("user", "item", "liked", "users")}
            sizes: dict[str, Any] = {n: int(file[n]) for n in ("num_users", "num_items", "k")}
        return cls(**columns, **sizes)


@dataclass(frozen=True)
class Lists:
    """What a peer recommends after some of its epochs.

    Attributes:
        users: The task's users, int64 ``[U]``.
        items: Best first, int64 ``[E, U, k]``; -1 past the last item that a user was given.
        epochs: Epochs trained before each, int64 ``[E]``.
        seconds: Seconds of CPU time spent on training before each, float64 ``[E]``.
    """

    users: np.ndarray
    items: np.ndarray
    epochs: np.ndarray
    seconds: np.ndarray

    def save(self, path: Path) -> None:
        """Writes the lists as .npz."""
        np.savez_compressed(path, **vars(self))

    @classmethod
    def load(cls, path: Path) -> Lists:
        """Reads what `save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            return cls(**{name: file[name] for name in ("users", "items", "epochs", "seconds")})


Train = Callable[[Task, Settings], Iterator[tuple[int, Callable[[], np.ndarray]]]]
"""Yields, at each of ``settings["epochs"]``, the epoch and what makes the lists, ``[U, k]``."""


def serve(train: Train) -> None:
    """A peer's process: ``python -m peers.NAME TASK.npz SETTINGS.json LISTS.npz``."""
    task_file, settings_file, lists_file = map(Path, sys.argv[1:])
    task, settings = Task.load(task_file), json.loads(settings_file.read_text())
    items, epochs, seconds = [], [], []
    spent, start = 0.0, time.process_time()
    for epoch, recommend in train(task, settings):
        spent += time.process_time() - start
        items.append(recommend())
        epochs.append(epoch)
        seconds.append(spent)
        print(f"epoch {epoch}, {spent:.1f} s", flush=True)
        start = time.process_time()
    Lists(task.users, np.stack(items), np.array(epochs), np.array(seconds)).save(lists_file)


def top_k(scores: np.ndarray, task: Task, users: np.ndarray | None = None) -> np.ndarray:
    """The k best items that a user has not seen and that occur in the task.

    Args:
        scores: Scores of all items, float ``[U, num_items]``, a row for each of ``users``.
        task: The task.
        users: Users of the rows, int64 ``[U]``; None is the task's.

    Returns:
        Items, int64 ``[U, k]``, best first, of equal ones the lower index; -1 past the last.
    """
    users = task.users if users is None else users
    row_of = np.full(task.num_users, -1)
    row_of[users] = np.arange(len(users))
    asked = row_of[task.user] >= 0
    scores = np.array(scores, dtype=np.float64)
    scores[:, np.bincount(task.item, minlength=task.num_items) == 0] = -np.inf
    scores[row_of[task.user[asked]], task.item[asked]] = -np.inf
    best = np.argsort(-scores, axis=1, kind="stable")[:, : task.k]
    best = np.where(np.take_along_axis(scores, best, axis=1) > -np.inf, best, -1)
    room = [(0, 0), (0, task.k - best.shape[1])]
    return np.pad(best, room, constant_values=-1)
