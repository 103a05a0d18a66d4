"""SiReN by its authors' code (https://github.com/woni-seo/SiReN-reco).

C. Seo et al., "SiReN: Sign-Aware Recommendation Using Graph Neural Networks", 2021,
arXiv:2108.08735. Like the authors' main.py without its evaluation, except that negatives are drawn
for one epoch at a time instead of twenty, which takes less memory.
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

OFFSET = 3.5  # between dislikes and likes


def train(task: Task, settings: Settings) -> Iterator[tuple[int, Callable[[], np.ndarray]]]:
    """A graph of likes, an MLP for the rest, and a sign-aware BPR loss."""
    import_from(settings["checkout"])
    from siren import SiReN
    from util import bipartite_dataset, deg_dist

    torch.manual_seed(settings["seed"])
    np.random.seed(settings["seed"])
    torch.set_num_threads(1)
    table = pd.DataFrame(
        {
            "userId": task.user + 1,
            "movieId": task.item + 1,
            "rating": np.where(task.liked, 5.0, 1.0),  # only the sign matters
        }
    ).drop_duplicates(["userId", "movieId"], keep="last")
    device = torch.device("cpu")
    model = SiReN(
        table,
        task.num_users,
        task.num_items,
        offset=OFFSET,
        num_layers=settings["layers"],
        MLP_layers=settings["mlp_layers"],
        dim=settings["embedding_size"],
        device=device,
        reg=settings["regularization"],
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=settings["learning_rate"])
    popularity = deg_dist(table, task.num_items)
    data = bipartite_dataset(
        table, popularity, OFFSET, task.num_users, task.num_items, settings["negatives"]
    )
    for epoch in range(1, settings["epochs"][-1] + 1):
        data.negs_gen_EP(1)
        data.edge_4 = data.edge_4_tot[:, :, 0]
        for batch in DataLoader(data, batch_size=settings["batch_size"], shuffle=True):
            optimizer.zero_grad()
            model(*batch, device).backward()
            optimizer.step()
        if epoch in settings["epochs"]:
            yield epoch, lambda: recommend(model, task)


@torch.no_grad()
def recommend(model: Any, task: Task) -> np.ndarray:
    """Inner products of the aggregated vectors, ranked."""
    model.eval()
    users, items = model.aggregate().split([task.num_users, task.num_items])
    model.train()
    return top_k((users[task.users] @ items.T).numpy(), task)


if __name__ == "__main__":
    serve(train)
