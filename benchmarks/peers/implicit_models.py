"""Matrix factorisation of the package implicit: ``ials`` and ``bpr``."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from implicit.als import AlternatingLeastSquares  # codespell:ignore als
from implicit.bpr import BayesianPersonalizedRanking
from scipy import sparse

from peers.exchange import Settings, Task, serve, top_k

MODELS = {"ials": AlternatingLeastSquares, "bpr": BayesianPersonalizedRanking}


def train(task: Task, settings: Settings) -> Iterator[tuple[int, Callable[[], np.ndarray]]]:
    """Factors of users and items; an event counts whatever its feedback, a repeat does not."""
    options = {**settings}
    epochs, seed = options.pop("epochs"), options.pop("seed")
    model = MODELS[options.pop("model")](random_state=seed, num_threads=1, **options)
    shape = (task.num_users, task.num_items)
    matrix = sparse.csr_matrix((np.ones(len(task.user), np.float32), (task.user, task.item)), shape)
    matrix.data[:] = 1
    for done, epoch in zip([0, *epochs[:-1]], epochs, strict=True):
        model.iterations = epoch - done  # fit goes on from the factors it finds
        model.fit(matrix, show_progress=False)
        yield epoch, lambda: top_k(model.user_factors[task.users] @ model.item_factors.T, task)


if __name__ == "__main__":
    serve(train)
