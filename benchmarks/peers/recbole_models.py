"""Models of users and items of the package RecBole, such as ``LightGCN`` and ``NGCF``."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse import dok_matrix

from peers.exchange import Settings, Task, serve, top_k

# RecBole 1.2 fills its graph by a method that SciPy dropped.
if not hasattr(dok_matrix, "_update"):
    dok_matrix._update = lambda matrix, cells: matrix._dict.update(cells)

from recbole.config import Config  # noqa: E402
from recbole.data import create_dataset  # noqa: E402
from recbole.data.interaction import Interaction  # noqa: E402
from recbole.data.utils import create_samplers, get_dataloader  # noqa: E402
from recbole.utils import get_model, get_trainer, init_seed  # noqa: E402

USERS_AT_A_TIME = 512


def train(task: Task, settings: Settings) -> Iterator[tuple[int, Callable[[], np.ndarray]]]:
    """Pairs of users and items, whatever the feedback."""
    options = {**settings}
    epochs, name = options.pop("epochs"), options.pop("model")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        write_atomic_file(task, Path(folder) / "task")
        config = Config(
            model=name,
            dataset="task",
            config_dict={
                **options,
                "data_path": folder,
                "checkpoint_dir": folder,
                "device": "cpu",
                "use_gpu": False,
                "show_progress": False,
                "load_col": {"inter": ["user_id", "item_id"]},
                "eval_args": {"split": {"RS": [1, 0, 0]}, "order": "RO", "mode": "full"},
            },
        )
        init_seed(config["seed"], reproducibility=True)
        data = create_dataset(config)
        parts = data.build()
        sampler = create_samplers(config, data, parts)[0]
        batches = get_dataloader(config, "train")(config, parts[0], sampler, shuffle=True)
        model = get_model(name)(config, parts[0])
        trainer = get_trainer(config["MODEL_TYPE"], name)(config, model)
        for done, epoch in zip([0, *epochs[:-1]], epochs, strict=True):
            for step in range(done, epoch):
                trainer._train_epoch(batches, step, show_progress=False)
            yield epoch, lambda: top_k(scores_of(model, data, task), task)


def write_atomic_file(task: Task, folder: Path) -> None:
    """RecBole's own format, a table with typed columns."""
    folder.mkdir()
    pairs = np.unique(np.stack([task.user, task.item], axis=1), axis=0)
    np.savetxt(
        folder / "task.inter",
        pairs,
        fmt="%d",
        delimiter="\t",
        header="user_id:token\titem_id:token",
        comments="",
    )


@torch.no_grad()
def scores_of(model: Any, data: Any, task: Task) -> np.ndarray:
    """Scores of all items, float ``[U, num_items]``; zeros where RecBole knows no event."""
    model.eval()
    tokens = data.field2id_token["item_id"][1:].astype(np.int64)
    known = np.isin(task.users, task.user)
    own = torch.from_numpy(data.token2id("user_id", task.users[known].astype(str)))
    parts = []
    for users in own.split(USERS_AT_A_TIME):
        batch = model.full_sort_predict(Interaction({"user_id": users}))
        parts.append(batch.view(len(users), -1)[:, 1:].numpy())
    scores = np.zeros((len(task.users), task.num_items))
    rows = np.flatnonzero(known)
    scores[rows[:, None], tokens] = np.concatenate(parts)
    model.train()
    return scores


if __name__ == "__main__":
    serve(train)
