"""Models of other projects as recommenders that `emorec.testing` can check.

    PYTHONPATH=.:benchmarks ENVIRONMENTS/rectools/bin/python -m peers.adapters "RecTools EASE"

runs the checks on one model and prints, as JSON, its versions and a line per check. An adapter does
no more than translate: ids and lists are the model's own, as are seeds, threads and errors. Only
the models' parameters that depend on the size of the log are set. Ratings are weights where the
model takes weights; unknown users are left out where the model has no option for them.
"""

from __future__ import annotations

import json
import sys
import unittest
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

__all__ = ["MODELS", "Model", "checked"]

Make = Callable[[int], Any]


class RecTools:
    """A model of RecTools, which has ids of its own."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def fit(self, events: Any) -> RecTools:
        """Learns from ratings as weights."""
        import pandas as pd
        from rectools.dataset import Dataset

        self.data = Dataset.construct(
            pd.DataFrame(
                {
                    "user_id": events["user_id"],
                    "item_id": events["item_id"],
                    "weight": events["rating"],
                    "datetime": pd.to_datetime(events["timestamp"], unit="s"),
                }
            )
        )
        self.model.fit(self.data)
        return self

    def recommend(self, users: Iterable[Any], k: int) -> Any:
        """Lists for users."""
        found = self.model.recommend(
            list(users), self.data, k, filter_viewed=True, on_unsupported_targets="ignore"
        )
        return found.rename(columns={"user_id": "user", "item_id": "item"})


class Implicit:
    """A model of implicit, which takes a sparse matrix of users and items."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def fit(self, events: Any) -> Implicit:
        """Learns from ratings as weights."""
        import pandas as pd
        from scipy import sparse

        user, self.users = pd.factorize(events["user_id"])
        item, self.items = pd.factorize(events["item_id"])
        weight = events["rating"].to_numpy("float32")
        shape = len(self.users), len(self.items)
        self.matrix = sparse.csr_matrix((weight, (user, item)), shape)
        self.model.fit(self.matrix, show_progress=False)
        return self

    def recommend(self, users: Iterable[Any], k: int) -> Any:
        """Lists for users that are known."""
        import pandas as pd

        rows = self.users.get_indexer(list(users))
        rows = rows[rows >= 0]
        items, scores = self.model.recommend(rows, self.matrix[rows], N=k)
        known = items.ravel() >= 0  # -1 fills the lists of some models
        return pd.DataFrame(
            {
                "user": self.users[rows].repeat(items.shape[1])[known],
                "item": self.items[items.ravel()[known]],
                "score": scores.ravel()[known],
            }
        )


class LensKit:
    """A scorer of LensKit in its standard pipeline, which has ids of its own."""

    def __init__(self, scorer: Any, seed: int) -> None:
        self.scorer, self.seed = scorer, seed

    def fit(self, events: Any) -> LensKit:
        """Learns from ratings."""
        from lenskit.data import from_interactions_df
        from lenskit.pipeline import topn_pipeline
        from lenskit.training import TrainingOptions

        self.pipeline = topn_pipeline(self.scorer)
        data = from_interactions_df(
            events, user_col="user_id", item_col="item_id", rating_col="rating"
        )
        self.pipeline.train(data, TrainingOptions(rng=self.seed))
        return self

    def recommend(self, users: Iterable[Any], k: int) -> Any:
        """Lists for users."""
        import pandas as pd
        from lenskit import recommend

        frames = [
            recommend(self.pipeline, query=user, n=k).to_df().assign(user=user) for user in users
        ]
        return pd.concat(frames, ignore_index=True).rename(columns={"item_id": "item"})


class Cornac:
    """A model of Cornac, which answers for one user and has ids of its own."""

    def __init__(self, model: Any, seed: int) -> None:
        self.model, self.seed = model, seed

    def fit(self, events: Any) -> Cornac:
        """Learns from ratings."""
        from cornac.data import Dataset

        rows = events[["user_id", "item_id", "rating"]].itertuples(index=False, name=None)
        self.train = Dataset.from_uir(list(rows), seed=self.seed)
        self.model.fit(self.train)
        return self

    def recommend(self, users: Iterable[Any], k: int) -> Any:
        """Lists for users that are known."""
        import pandas as pd

        lists = {
            user: self.model.recommend(user, k, remove_seen=True, train_set=self.train)
            for user in users
            if user in self.train.uid_map
        }
        rows = [(user, item) for user, items in lists.items() for item in items]
        return pd.DataFrame(rows, columns=["user", "item"])


@dataclass(frozen=True)
class Model:
    """A model to check.

    Attributes:
        environment: The environment of `setup.sh` that has it.
        packages: Its package, and those that it computes with.
        make: Makes it, not fitted yet, of a seed.
    """

    environment: str
    packages: tuple[str, ...]
    make: Make


def _rectools_knn(seed: int) -> RecTools:
    from implicit.nearest_neighbours import CosineRecommender
    from rectools.models import ImplicitItemKNNWrapperModel

    return RecTools(ImplicitItemKNNWrapperModel(CosineRecommender(K=20)))


def _rectools_ease(seed: int) -> RecTools:
    from rectools.models import EASEModel

    return RecTools(EASEModel(regularization=10.0))


def _rectools_popular(seed: int) -> RecTools:
    from rectools.models import PopularModel

    return RecTools(PopularModel())


def _rectools_sasrec(seed: int) -> RecTools:
    from pytorch_lightning import seed_everything
    from rectools.models import SASRecModel

    from peers.rectools_models import quiet_trainer

    def trainer() -> Any:
        return quiet_trainer(epochs=10)

    seed_everything(seed, verbose=False)
    return RecTools(SASRecModel(n_factors=16, n_blocks=1, n_heads=1, get_trainer_func=trainer))


def _implicit_als(seed: int) -> Implicit:
    from implicit.cpu.als import AlternatingLeastSquares  # codespell:ignore als

    return Implicit(AlternatingLeastSquares(factors=16, random_state=seed))


def _implicit_bpr(seed: int) -> Implicit:
    from implicit.cpu.bpr import BayesianPersonalizedRanking

    return Implicit(BayesianPersonalizedRanking(factors=16, random_state=seed, num_threads=1))


def _implicit_cosine(seed: int) -> Implicit:
    from implicit.nearest_neighbours import CosineRecommender

    return Implicit(CosineRecommender(K=20))


def _lenskit_knn(seed: int) -> LensKit:
    from lenskit.knn import ItemKNNScorer

    return LensKit(ItemKNNScorer(max_nbrs=20, feedback="implicit"), seed)


def _lenskit_als(seed: int) -> LensKit:
    from lenskit.als import BiasedMFScorer  # codespell:ignore als

    return LensKit(BiasedMFScorer(embedding_size=16), seed)


def _lenskit_popular(seed: int) -> LensKit:
    from lenskit.basic import PopScorer

    return LensKit(PopScorer(), seed)


def _cornac_bpr(seed: int) -> Cornac:
    from cornac.models import BPR

    return Cornac(BPR(k=16, max_iter=20, num_threads=1, seed=seed), seed)


def _cornac_mf(seed: int) -> Cornac:
    from cornac.models import MF

    return Cornac(MF(k=16, num_threads=1, seed=seed), seed)


_RECTOOLS = ("rectools", "implicit", "torch")
MODELS = {
    "RecTools ItemKNN": Model("rectools", _RECTOOLS[:2], _rectools_knn),
    "RecTools EASE": Model("rectools", _RECTOOLS[:2], _rectools_ease),
    "RecTools popular": Model("rectools", _RECTOOLS[:1], _rectools_popular),
    "RecTools SASRec": Model("rectools", _RECTOOLS, _rectools_sasrec),
    "implicit ALS": Model("rectools", ("implicit",), _implicit_als),
    "implicit BPR": Model("rectools", ("implicit",), _implicit_bpr),
    "implicit cosine": Model("rectools", ("implicit",), _implicit_cosine),
    "LensKit ItemKNN": Model("lenskit", ("lenskit",), _lenskit_knn),
    "LensKit BiasedMF": Model("lenskit", ("lenskit",), _lenskit_als),
    "LensKit popular": Model("lenskit", ("lenskit",), _lenskit_popular),
    "Cornac BPR": Model("cornac", ("cornac",), _cornac_bpr),
    "Cornac MF": Model("cornac", ("cornac",), _cornac_mf),
}
"""The models by name."""


def checked(make: Make) -> dict[str, str]:
    """By check: "passed", "cannot be asked: " or "fails: " with the first line of the reason."""
    from emorec.testing import all_checks

    outcomes = {}
    for check in all_checks():
        try:
            check(make)
        except unittest.SkipTest as reason:
            outcomes[check.name] = f"cannot be asked: {reason}"
        except Exception as error:  # whatever a model does wrong is told
            kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
            first = (str(error).strip().splitlines() or [""])[0]
            outcomes[check.name] = f"fails: {kind}{first}"
        else:
            outcomes[check.name] = "passed"
    return outcomes


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    asked = MODELS[sys.argv[1]]
    versions = {package: version(package) for package in asked.packages}
    print(json.dumps({"versions": versions, "checks": checked(asked.make)}))
