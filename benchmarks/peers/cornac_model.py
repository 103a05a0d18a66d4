"""Trains Cornac's BPR and saves it for Cornac's own service.

    python cornac_model.py TASK FOLDER

FOLDER then holds what MODEL_PATH of ``cornac.serving.app`` names, with the train set, so that lists
can leave out what a user has seen.
"""

from __future__ import annotations

import sys
from pathlib import Path

from cornac.data import Dataset
from cornac.models import BPR
from exchange import Task


def main(task: Path, folder: Path) -> None:
    given = Task.load(task)
    rows = zip(map(str, given.user), map(str, given.item), [1.0] * len(given.user), strict=True)
    train = Dataset.from_uir(list(rows), seed=0)
    model = BPR(k=64, max_iter=50, learning_rate=0.05, lambda_reg=0.01, num_threads=1, seed=0)
    print(model.fit(train).save(str(folder), save_trainset=True))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
