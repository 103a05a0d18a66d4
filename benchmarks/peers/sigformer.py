"""SIGformer by its authors' code (https://github.com/StupidThree/SIGformer).

S. Chen et al., "SIGformer: Sign-aware Graph Transformer for Recommendation", SIGIR 2024,
arXiv:2404.11982. An epoch is one step on all edges, as in the authors' main.py.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from peers.authors_code import import_from
from peers.exchange import Settings, Task, serve, top_k


def train(task: Task, settings: Settings) -> Iterator[tuple[int, Callable[[], np.ndarray]]]:
    """A transformer over sampled paths of liking and disliking edges."""
    options = {**settings}
    epochs, checkout = options.pop("epochs"), options.pop("checkout")
    with tempfile.TemporaryDirectory() as folder:
        write_files(task, Path(folder) / "task")
        # The code reads the command line when it is imported.
        options = {**options, "data_dir": folder, "data": "task", "device": -1}
        sys.argv[1:] = [f"--{name}={value}" for name, value in options.items()]
        import_from(checkout, "code")
        from dataloader import dataset
        from model import Model
    torch.set_num_threads(1)
    model = Model(dataset)
    for epoch in range(1, epochs[-1] + 1):
        model.train_func()
        if epoch in epochs:
            # As in the authors' evaluation: the vectors of the last step.
            yield (
                epoch,
                lambda: top_k((model._users[task.users] @ model._items.T).detach().numpy(), task),
            )


def write_files(task: Task, folder: Path) -> None:
    """Lines of user, item and rating; two placeholders in the held-out files fix the sizes."""
    folder.mkdir()
    newest = np.unique((task.user * task.num_items + task.item)[::-1], return_index=True)[1]
    rows = len(task.user) - 1 - newest
    ratings = np.where(task.liked, 5, 1)
    table = np.stack([task.user, task.item, ratings], axis=1)[rows]
    np.savetxt(folder / "train.txt", table, fmt="%d")
    last = [[task.num_users - 1, task.num_items - 1, rating] for rating in (5, 1)]
    for name in ("valid.txt", "test.txt"):
        np.savetxt(folder / name, last, fmt="%d")


if __name__ == "__main__":
    serve(train)
