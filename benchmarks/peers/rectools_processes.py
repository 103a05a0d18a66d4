"""SASRec of the package RecTools on one or several processes, by Lightning's DDP.

    python -m peers.rectools_processes TASK.npz PROCESSES STEPS FOLDER

Trains some steps of 64 users over all processes, three times over. Each process writes the seconds
of the last time, by the clock and of CPU, to a file of its own in FOLDER.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from rectools.dataset import Dataset
from rectools.models import SASRecModel

from peers.exchange import Task
from peers.rectools_models import SoftmaxByRows

USERS = 64  # of a step
EPOCHS = 3  # the first ones warm up


class Clock(Callback):
    """Writes the seconds of the last epoch, by the clock and of CPU."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self._started = time.perf_counter(), time.process_time()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops the clock."""
        clock, cpu = self._started
        seconds = time.perf_counter() - clock, time.process_time() - cpu
        (self._folder / f"{trainer.global_rank}.json").write_text(json.dumps(seconds))


def main() -> None:
    """Trains, and writes the seconds."""
    task, clock = Task.load(Path(sys.argv[1])), Clock(Path(sys.argv[4]))
    processes, steps = int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    seed_everything(0)

    def trainer() -> Trainer:
        return Trainer(
            max_epochs=EPOCHS,
            limit_train_batches=steps,
            accelerator="cpu",
            devices=processes,
            strategy="ddp" if processes > 1 else "auto",
            logger=False,
            callbacks=[clock],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )

    model = SASRecModel(
        loss="softmax",
        n_factors=64,
        n_blocks=2,
        n_heads=2,
        session_max_len=200,
        dropout_rate=0.2,
        lr=0.001,
        batch_size=USERS // processes,
        lightning_module_type=SoftmaxByRows,
        get_trainer_func=trainer,
    )
    order = pd.to_datetime(np.arange(len(task.user)), unit="s")
    frame = {"user_id": task.user, "item_id": task.item, "weight": 1.0, "datetime": order}
    model.fit(Dataset.construct(pd.DataFrame(frame)))


if __name__ == "__main__":
    main()
