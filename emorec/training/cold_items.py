"""Cold items: vectors of items without events, predicted from their features by ridge regression.

Vectors of the ``I`` items of the log are trained, ``Y`` ``[I, D]``, and their features ``x_i`` are
known. With ``n_i`` the events of item ``i``, ``w_i = sqrt(n_i)`` divided by its mean, and means
weighted by ``w``,

    minimise  sum_i w_i |y_i - mean(y) - (x_i - mean(x)) B|^2 + 10 |B|^2
    y_c = mean(y) + stretch (x_c - mean(x)) B                            for each cold item c

for all that the model has per item: the embedding; the source, target and bias of the feedback sum;
the vectors and the prior of the polarity head. An item without features is taken for the mean.

Predictions lie closer to the mean than trained vectors, and lists hold the items of the largest
scores: without a stretch, cold items would hardly ever be in a list of the whole catalogue. That of
embeddings, targets and biases is chosen on the log: items of it whose vectors are predicted from
those of the others then have half the share of the lists that they have by their own vectors. With
the whole share, lists lose too many hits. Elsewhere the stretch is 1: predicted feedback is a
probability.

Without the stretch, a prediction is a weighted mean of trained vectors, ``W Y``. The similarities
of the paths follow from the same weights,

    S' = E S E^T        E = the identity above W

so that a cold item is similar to what items of like features are similar to. Cold items then have
all terms of the ranking. Nothing of the trained model changes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from emorec.baselines.neighbours import largest_of_rows
from emorec.building import build_model
from emorec.config import Config
from emorec.data.features import ItemFeatures
from emorec.data.interactions import Interactions
from emorec.data.splits import Split
from emorec.evaluation.scores import users_at_a_time
from emorec.evaluation.top_k import seen_matrix
from emorec.inference.ranking import ModelScorer
from emorec.nn.feedback_paths import FeedbackPaths
from emorec.nn.model import Recommender
from emorec.training.checkpoint import load_parameters
from emorec.training.item_ridge import ItemRidge

__all__ = ["ColdItems"]

_ITEM, _SIMILARITY = "feedback_paths.item", "feedback_paths.similarity"
_STRETCHED = ("item_embedding.weight", "feedback_sum.target.weight", "feedback_sum.bias")
_TABLES = (
    *_STRETCHED,
    "feedback_sum.source.weight",
    "polarity.item.weight",
    "polarity.reaction.weight",
    "polarity.presence.weight",
    "polarity.prior",
)
"""What a model has per item, apart from its paths; no model has all of them."""
_CELLS = 20_000_000  # of a block
_WEIGHTS = 20  # largest weights of known items that count for the similarities of a cold one
_STRETCHES = np.arange(1.0, 4.01, 0.25)
_SHARE = 0.5  # of the places that trained items have
_MOVED = ("next_item", "graph")  # the terms that are stretched
_DRAWS, _USERS, _LENGTH = 3, 256, 10  # of the lists that the stretch is chosen by


@dataclass(frozen=True, eq=False)
class ColdItems:
    """A trained model and its log with cold items after the items of the log.

    Attributes:
        features: Of all items, at least one of them cold.
        rows: What was predicted for the cold items, by name of the parameter, ``[C, ...]``; and, if
            the model has paths, the similar items of all items and their similarities.
        model: The model with these rows after its own.
        split: The split of the log, whose vocabulary has the cold items, too.
    """

    features: ItemFeatures
    rows: dict[str, Tensor]
    model: Recommender
    split: Split

    @classmethod
    def predicted(
        cls,
        model: Recommender,
        config: Config,
        split: Split,
        features: ItemFeatures,
        stretch: float | None = None,
    ) -> ColdItems:
        """Predicts all that a trained model has per item, for cold items.

        Args:
            model: The model.
            config: Its configuration.
            split: Its log.
            features: Of the log's items and of cold ones.
            stretch: Of the predictions; None: it is chosen on the log.
        """
        log = split.history if config.training.refit else split.train
        rows = _predicted(model, features, log, config.training.device, stretch)
        return cls.with_rows(model, config, split, features, rows)

    @classmethod
    def with_rows(
        cls,
        model: Recommender,
        config: Config,
        split: Split,
        features: ItemFeatures,
        rows: dict[str, Tensor],
    ) -> ColdItems:
        """Adds rows that were predicted before, as the attribute.

        Raises:
            ValueError: If the rows are not of this model and these features.
        """
        larger = _with_rows(model, config, split.train.num_users, len(features.items), rows)
        train, valid, test = (
            replace(part, items=features.items) for part in (split.train, split.valid, split.test)
        )
        return cls(features, rows, larger, replace(split, train=train, valid=valid, test=test))

    @property
    def ids(self) -> list[Any]:
        """The cold items' own ids."""
        return self.features.items.ids[self.features.num_warm :]

    def are_cold(self, ids: Iterable[Any]) -> np.ndarray:
        """Whether items are cold, by their own ids, bool ``[N]``."""
        return self.features.items.indices(ids) >= self.features.num_warm


def _predicted(
    model: Recommender,
    features: ItemFeatures,
    log: Interactions,
    device: str,
    stretch: float | None,
) -> dict[str, Tensor]:
    """Predicts all that a model has per item, for cold items.

    Args:
        model: The trained model, of the ``I`` items of the log.
        features: Of these and of ``C`` cold items, at least one.
        log: The events that the model was trained on, of ``I`` items.
        device: Where to compute scores.
        stretch: Of the predictions; None: it is chosen on the log.

    Returns:
        Rows of the cold items by name of the parameter, ``[C, ...]``; and, if the model has paths,
        the similar items of all items and their similarities, ``[I + C, N]``.
    """
    known, cold = features.matrix[: features.num_warm], features.matrix[features.num_warm :]
    weight = np.sqrt(np.bincount(log.item, minlength=log.num_items))
    ridge = ItemRidge(known, weight)
    if stretch is None:
        stretch = _fair_stretch(model, known, features.num_cold, weight, log, device)
    state = {name: each.detach().cpu() for name, each in model.state_dict().items()}
    found = {}
    for name in _TABLES:
        if name in state:
            table = state[name].double().reshape(features.num_warm, -1).numpy()
            rows = ridge.stretched(cold, table, stretch if name in _STRETCHED else 1.0)
            shape = len(rows), *state[name].shape[1:]
            found[name] = torch.from_numpy(rows.reshape(shape)).to(state[name].dtype)
    if _ITEM in state:
        item, similarity = state[_ITEM].numpy(), state[_SIMILARITY].numpy()
        items, similarities = _similar(ridge, cold, item.astype(np.int64), similarity)
        found[_ITEM] = torch.from_numpy(items.astype(item.dtype))
        found[_SIMILARITY] = torch.from_numpy(similarities.astype(similarity.dtype))
    return found


def _with_rows(
    model: Recommender, config: Config, num_users: int, num_items: int, rows: dict[str, Tensor]
) -> Recommender:
    """A copy of a model, in evaluation mode, that has the rows of cold items after its own."""
    state = dict(model.state_dict())
    per_item = {name for name in (*_TABLES, _ITEM, _SIMILARITY) if name in state}
    for name in sorted(rows.keys() ^ per_item):
        raise ValueError(f"{name} {'is missing' if name in per_item else 'is unknown'}")
    larger = build_model(config, num_users, num_items)
    if larger.feedback_paths is not None:
        shape = rows[_ITEM].shape
        if len(shape) != 2 or shape[1] == 0:
            raise ValueError(f"{_ITEM} is {list(shape)}, must be [{num_items}, 1 or more]")
        larger.feedback_paths = FeedbackPaths(num_items, shape[1] - 1)
    for name, new in rows.items():
        if name in (_ITEM, _SIMILARITY):
            state[name] = new
        else:
            state[name] = _joined(name, state[name], new)
    load_parameters(larger, state)
    return larger.to(config.training.device).eval()


def _joined(name: str, own: Tensor, new: Tensor) -> Tensor:
    """Rows of cold items after a model's own."""
    if (own.dtype, own.shape[1:]) != (new.dtype, new.shape[1:]) or not new.dim():
        expected = ", ".join(map(str, ["C", *own.shape[1:]]))
        raise ValueError(
            f"{name} is {new.dtype} {list(new.shape)}, must be {own.dtype} [{expected}]"
        )
    return torch.cat([own, new.to(own.device)])


def _fair_stretch(
    model: Recommender,
    features: sparse.csr_matrix,
    num_cold: int,
    weight: np.ndarray,
    log: Interactions,
    device: str,
) -> float:
    """The stretch at which predicted items have half the share of lists of trained ones.

    It is chosen on random items of the log, as many as there are cold items but at most a fifth.
    All terms of the ranking are linear in what the ridge predicts, but for the logarithm of a
    probability and the nearest items, so the ridge predicts the terms themselves.
    """
    rng = np.random.default_rng(0)
    users = rng.permutation(np.unique(log.user))[:_USERS]
    size = min(num_cold, log.num_items // 5)
    drawn = [np.sort(rng.permutation(log.num_items)[:size]) for _ in range(_DRAWS)]
    parts = [part for part in drawn if 0 < weight[part].sum() < weight.sum()]
    others = [np.setdiff1d(np.arange(log.num_items), part) for part in parts]
    ridges = [ItemRidge(features[rest], weight[rest]) for rest in others]
    scorer, seen = ModelScorer(model, log, device), seen_matrix(log)
    own, predicted = 0, np.zeros(len(_STRETCHES), dtype=np.int64)
    for chunk in torch.from_numpy(users).split(users_at_a_time(log.num_items)):
        terms = {
            name: term.double().numpy()
            for name, term in scorer.terms(chunk)._asdict().items()
            if term is not None
        }
        total = np.where(seen[chunk.numpy()].toarray() > 0, -np.inf, sum(terms.values()))
        for part, rest, ridge in zip(parts, others, ridges, strict=True):
            own += _places(total, part)
            fixed = moved = np.zeros((1, 1))
            for name, term in terms.items():
                values = term[:, rest].T
                mean = ridge.mean(values)[:, None]
                change = ridge.predict(features[part], values).T - mean
                if name in _MOVED:
                    fixed, moved = fixed + mean, moved + change
                else:
                    fixed = fixed + mean + change
            for place, stretch in enumerate(_STRETCHES):
                total_of_predicted = total.copy()
                total_of_predicted[:, part] = fixed + stretch * moved
                predicted[place] += _places(total_of_predicted, part)
    return float(_STRETCHES[np.abs(predicted - _SHARE * own).argmin()])


def _places(scores: np.ndarray, items: np.ndarray) -> int:
    """The places of the lists of ten by scores ``[B, I]`` that some items hold."""
    best = torch.from_numpy(scores).topk(min(_LENGTH, scores.shape[1]))
    is_listed = np.isin(best.indices.numpy(), items) & (best.values.numpy() > -np.inf)
    return int(is_listed.sum())


def _similar(
    ridge: ItemRidge, cold: sparse.csr_matrix, item: np.ndarray, similarity: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """``S'``: the items of the log keep their rows, and get as many cold items beside them.

    Of each row of ``W`` the largest weights alone count: with all of them, the products would be
    dense.

    Returns:
        Similar items of each item, and their similarities, at least 0, ``[I + C, N]``.
    """
    (num_warm, size), num_cold = item.shape, cold.shape[0]
    added = min(size, num_cold)
    row = np.repeat(np.arange(num_warm), size)
    cells = similarity.astype(np.float64).ravel(), (row, item.ravel())
    counted = sparse.csr_matrix(cells, shape=(num_warm, num_warm))
    counted.eliminate_zeros()
    weights = sparse.vstack(
        [_largest(ridge.weights(cold[block]), _WEIGHTS) for block in _blocks(num_cold, num_warm)],
        format="csr",
    )
    to_cold = [
        largest_of_rows((counted[block] @ weights.T).maximum(0).tocsr(), added)
        for block in _blocks(num_warm, min(num_cold, size * _WEIGHTS * num_cold // num_warm))
    ]
    of_cold = []
    for block in _blocks(num_cold, min(num_warm, size * _WEIGHTS)):
        known = weights[block] @ counted
        both = sparse.hstack([known, known @ weights.T], format="csr")
        of_cold.append(largest_of_rows(both.maximum(0).tocsr(), size + added))
    found = [
        _padded(sparse.vstack(rows, format="csr"), size)
        for rows, size in (
            (to_cold, added),
            (of_cold, size + added),
        )
    ]
    (cold_item, cold_similarity), (items, similarities) = found
    cold_item[cold_similarity > 0] += num_warm
    warm = np.concatenate([item, cold_item], 1), np.concatenate([similarity, cold_similarity], 1)
    return np.concatenate([warm[0], items]), np.concatenate([warm[1], similarities])


def _largest(matrix: np.ndarray, number: int) -> sparse.csr_matrix:
    """The entries of largest size in each row of a dense matrix."""
    number = min(number, matrix.shape[1])
    column = np.argpartition(-np.abs(matrix), number - 1, axis=1)[:, :number]
    value = np.take_along_axis(matrix, column, axis=1)
    row = np.repeat(np.arange(len(matrix)), number)
    return sparse.csr_matrix((value.ravel(), (row, column.ravel())), shape=matrix.shape)


def _blocks(number: int, cells: int) -> list[slice]:
    """Rows in blocks that have at most `_CELLS` cells, with so many in a row."""
    size = max(1, _CELLS // max(1, cells))
    return [slice(start, start + size) for start in range(0, number, size)]


def _padded(matrix: sparse.csr_matrix, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns and values of rows of at most ``size`` entries; 0 where there is none."""
    counts = np.diff(matrix.indptr)
    row = np.repeat(np.arange(len(counts)), counts)
    place = np.arange(len(row)) - matrix.indptr[row]
    column, value = np.zeros((len(counts), size), np.int64), np.zeros((len(counts), size))
    column[row, place], value[row, place] = matrix.indices, matrix.data
    return column, value
