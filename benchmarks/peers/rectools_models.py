"""Transformers of the package RecTools: ``sasrec`` and ``bert4rec``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import torch
from pytorch_lightning import Trainer, seed_everything
from rectools.dataset import Dataset
from rectools.models import BERT4RecModel, SASRecModel
from rectools.models.nn.transformers.lightning import TransformerLightningModule

from peers.exchange import Settings, Task, serve

MODELS = {"sasrec": SASRecModel, "bert4rec": BERT4RecModel}


class SoftmaxByRows(TransformerLightningModule):
    """RecTools' training with the same softmax loss, computed only where there is a target."""

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """The loss of a batch."""
        net, known = self.torch_model, batch["y"] != 0
        items = net.item_model.get_all_embeddings()
        states = net.encode_sessions(batch, items)[known] / self.logits_t
        loss = torch.nn.functional.cross_entropy(
            net.similarity_module(states, items), batch["y"][known], reduction="none"
        )
        loss = loss * batch["yw"][known]
        return loss.sum() / (loss > 0).sum()


def quiet_trainer(epochs: int = 1) -> Trainer:
    """Trains on the CPU and writes nothing; `fit_partial` has epochs of its own."""
    return Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def train(task: Task, settings: Settings) -> Iterator[tuple[int, Callable[[], np.ndarray]]]:
    """Sequences of items, whatever the feedback."""
    options = {**settings}
    epochs = options.pop("epochs")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    seed_everything(options.pop("seed"))
    torch.set_num_threads(1)
    model = MODELS[options.pop("model")](
        get_trainer_func=quiet_trainer, lightning_module_type=SoftmaxByRows, **options
    )
    data = Dataset.construct(
        pd.DataFrame(
            {
                "user_id": task.user,
                "item_id": task.item,
                "weight": 1.0,
                # The models use the order alone, and equal times would lose it.
                "datetime": pd.to_datetime(np.arange(len(task.user)), unit="s"),
            }
        )
    )
    for done, epoch in zip([0, *epochs[:-1]], epochs, strict=True):
        model.fit_partial(data, min_epochs=epoch - done, max_epochs=epoch - done)
        yield epoch, lambda: recommend(model, data, task)


def recommend(model: SASRecModel | BERT4RecModel, data: Dataset, task: Task) -> np.ndarray:
    """Unseen items, int64 ``[U, k]``; -1 for users whose history is too short for the model."""
    table = model.recommend(
        users=task.users[np.isin(task.users, task.user)],
        dataset=data,
        k=task.k,
        filter_viewed=True,
        on_unsupported_targets="ignore",
    )
    row_of = np.full(task.num_users, -1)
    row_of[task.users] = np.arange(len(task.users))
    items = np.full((len(task.users), task.k), -1)
    items[row_of[table["user_id"]], table["rank"] - 1] = table["item_id"]
    return items


if __name__ == "__main__":
    serve(train)
