"""ALS of implicit behind FastAPI, as one would write it in an hour.

python implicit_app.py TASK MODEL                  # trains
TASK=... MODEL=... uvicorn implicit_app:app        # serves
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from exchange import Task
from fastapi import FastAPI, HTTPException
from implicit.cpu.als import AlternatingLeastSquares
from scipy.sparse import csr_matrix


def matrix(task: Path) -> csr_matrix:
    given = Task.load(task)
    ones = np.ones(len(given.user), dtype=np.float32)
    return csr_matrix((ones, (given.user, given.item)), (given.num_users, given.num_items))


def create_app(task: Path, model_file: Path) -> FastAPI:
    app = FastAPI()
    user_items = matrix(task)
    model = AlternatingLeastSquares.load(str(model_file))

    @app.get("/users/{user}/recommendations")
    async def recommendations(user: int, k: int = 10) -> list[dict[str, Any]]:
        if not 0 <= user < user_items.shape[0]:
            raise HTTPException(404, "this user is not known")
        items, scores = model.recommend(user, user_items[user], N=k)
        return [
            {"item": item, "score": score}
            for item, score in zip(items.tolist(), scores.tolist(), strict=True)
        ]

    return app


if __name__ == "__main__":
    trained = AlternatingLeastSquares(factors=64, iterations=15, random_state=0, num_threads=1)
    trained.fit(matrix(Path(sys.argv[1])), show_progress=False)
    trained.save(sys.argv[2])
elif "MODEL" in os.environ:
    app = create_app(Path(os.environ["TASK"]), Path(os.environ["MODEL"]))
