"""PNFRec by its authors' code (https://github.com/Veronika-Ivanova/pnfrec).

"Benefiting from Negative yet Informative Feedback by Contrasting Opposing Sequential Patterns",
RecSys 2025. Like the authors' run_pnfrec.py with a plain loop in place of the trainer. The model
recommends from liked items, so that users who like nothing get no list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader

from peers.authors_code import import_from
from peers.exchange import Settings, Task, serve, top_k

COLUMNS = {"user_col": "user", "item_col": "item", "relevance_col": "rating", "time_col": "place"}
MOST_USERS = 256


def train(task: Task, settings: Settings) -> Iterator[tuple[int, Callable[[], np.ndarray]]]:
    """Two transformers, of likes and of dislikes, that share items and a contrast."""
    import_from(settings["checkout"], "src")
    import datasets
    from models import SASRecPosNegContrastive
    from modules import SeqRecPosNegContrastive

    torch.manual_seed(settings["seed"])
    torch.set_num_threads(1)
    table = pd.DataFrame(
        {
            "user": task.user,
            "item": task.item + 1,
            "rating": task.liked.astype(int),
            "place": np.arange(len(task.user)),
        }
    )
    likes = table.groupby("user")["rating"].sum()
    options = {"max_length": settings["max_length"], "relevance_threshold": 1, **COLUMNS}
    learned = table[table["user"].isin(likes.index[likes >= 2])]
    batches = DataLoader(
        datasets.CausalNegativeFeedbackDataset(learned, **options),
        batch_size=settings["batch_size"],
        shuffle=True,
        collate_fn=datasets.PaddingCollateFn(
            add_negative_mask=True, labels_keys=["labels", "negative_labels"]
        ),
    )
    asked = table[table["user"].isin(task.users) & table["user"].isin(likes.index[likes >= 1])]
    queries = DataLoader(
        datasets.CausalPredictionDataset(asked, **options),
        batch_size=MOST_USERS,
        collate_fn=datasets.PaddingCollateFn(),
    )
    model = SeqRecPosNegContrastive(
        SASRecPosNegContrastive(
            item_num=task.num_items,
            maxlen=settings["max_length"],
            hidden_units=settings["hidden_units"],
            num_blocks=settings["num_blocks"],
            dropout_rate=settings["dropout"],
        ),
        lr=settings["learning_rate"],
        neg_CE_coef=settings["negative_weight"],
        contrastive_coef=settings["contrastive_weight"],
    )
    optimizer = model.configure_optimizers()
    for epoch in range(1, settings["epochs"][-1] + 1):
        for number, batch in enumerate(batches):
            optimizer.zero_grad()
            model.training_step(batch, number).backward()
            optimizer.step()
        if epoch in settings["epochs"]:
            yield epoch, lambda: recommend(model, queries, task)


@torch.no_grad()
def recommend(model: Any, queries: DataLoader, task: Task) -> np.ndarray:
    """Scores after the last liked item, ranked."""
    model.eval()
    row_of = np.full(task.num_users, -1)
    row_of[task.users] = np.arange(len(task.users))
    items = np.full((len(task.users), task.k), -1)
    for batch in queries:
        last = (batch["input_ids"] != 0).sum(dim=1) - 1
        scores = model.prediction_output(batch)[torch.arange(len(last)), last, 1:]
        users = batch["user_id"].numpy()
        items[row_of[users]] = top_k(scores.numpy(), task, users)
    model.train()
    return items


if __name__ == "__main__":
    serve(train)
