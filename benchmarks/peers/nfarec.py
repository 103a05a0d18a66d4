"""NFARec by its authors' code (https://github.com/WangXFng/NFARec).

X. Wang et al., "NFARec: A Negative Feedback-Aware Recommender Model", SIGIR 2024,
arXiv:2404.06900. Like the authors' Main.py, with smaller vectors, on the CPU, and without the
metrics that it computes in training. The code learns to tell a user's later items, its "tune"
part, from the earlier ones: here the last ten.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from peers.authors_code import OnCpu, import_from
from peers.exchange import Settings, Task, serve, top_k

NUM_LATER = 10
WEIGHTS = {"ml-1M": (1.47, 3.99), "Beauty": (0.6168, 3.7435)}  # of earlier and later items


def train(task: Task, settings: Settings) -> Iterator[tuple[int, Callable[[], np.ndarray]]]:
    """Hawkes attention and a hypergraph of co-occurrence, signed by feedback."""
    like = settings["like"]
    torch.manual_seed(settings["seed"])
    torch.set_num_threads(1)
    import_from(settings["checkout"])
    import Constants

    Constants.DATASET = like
    Constants.USER_NUMBER, Constants.ITEM_NUMBER = task.num_users, task.num_items
    Constants.NUM_LAYERS = Constants.NUM_LAYERS_DICT[like]
    Constants.DICT["Beauty"] = task.num_users
    from model.Models import Model
    from utils import Utils
    from utils.Dataset import Dataset

    options = argparse.Namespace(smooth=0.03)
    options.beta, options.lambda_ = WEIGHTS[like]
    with OnCpu():
        with tempfile.TemporaryDirectory() as folder:
            write_files(task, Path(folder) / "data" / like, like)
            os.chdir(folder)  # the code reads ./data
            data = Dataset()
            os.chdir("/")
        model = Model(task.num_items, settings["embedding_size"], 1, 1, 0.5, "cpu", options)
        matrices = data.ui_adj, data.cor_mat
        optimizer = torch.optim.Adam(model.parameters(), lr=settings["learning_rate"])
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 10, gamma=0.5)
        batches = data.get_user_dl(settings["batch_size"])
        for epoch in range(1, settings["epochs"][-1] + 1):
            for user, items, times, kinds, later in batches:
                optimizer.zero_grad()
                state, prediction = model(user, items, matrices)
                event, no_event = Utils.log_likelihood(model, state, times, kinds)
                loss = Utils.type_loss(prediction, items, later, options)
                loss = loss - torch.mean(event - no_event) / Constants.DICT[like]
                loss.backward()
                optimizer.step()
            schedule.step()
            if epoch in settings["epochs"]:
                yield epoch, lambda: recommend(model, data, matrices, settings, task)


@torch.no_grad()
def recommend(model: Any, data: Any, matrices: Any, settings: Settings, task: Task) -> np.ndarray:
    """Predictions from all of a user's items, ranked."""
    model.eval()
    scores = np.zeros((task.num_users, task.num_items), dtype=np.float32)
    for user, items, *_ in data.get_user_valid_dl(settings["batch_size"]):
        scores[user.numpy()] = model(user, items, matrices)[1].numpy()
    model.train()
    return top_k(scores[task.users], task)


def write_files(task: Task, folder: Path, name: str) -> None:
    """Lines of user, item, rating and place in the user's sequence."""
    folder.mkdir(parents=True)
    counts = np.bincount(task.user, minlength=task.num_users)
    place = np.arange(len(task.user)) - (np.cumsum(counts) - counts)[task.user]
    rows = np.stack([task.user, task.item, np.where(task.liked, 5, 1), place], axis=1)
    later = (place >= counts[task.user] - NUM_LATER) & (counts[task.user] > NUM_LATER)
    np.savetxt(folder / f"{name}_train.txt", rows[~later], fmt="%d", delimiter="\t")
    np.savetxt(folder / f"{name}_tune.txt", rows[later], fmt="%d", delimiter="\t")
    (folder / f"{name}_test.txt").touch()


if __name__ == "__main__":
    serve(train)
