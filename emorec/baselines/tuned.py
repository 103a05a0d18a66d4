"""The baselines of reports and tables, each with settings chosen on validation."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from emorec.baselines.simple import EASE, ItemKNN, MostPop, Random, RidgeKNN
from emorec.data.interactions import Interactions
from emorec.data.splits import Split
from emorec.evaluation.top_k import (
    Scorer,
    SeenItems,
    Selection,
    evaluate,
    excluded_items,
    recommend_top_k,
)

__all__ = ["BASELINES", "Baseline", "names_for", "tuned_baselines"]

MOST_ITEMS_OF_EASE = 8_000
"""Larger catalogues have RidgeKNN in place of EASE in reports: the time to fit EASE grows with the
third power of the number of items."""


@dataclass(frozen=True)
class _Settings:
    """One choice: the arguments of the weights between items, and the recency of queries."""

    weights: tuple[tuple[str, Any], ...] = ()
    recency: float | None = None

    @property
    def shown(self) -> dict[str, Any]:
        """The settings that differ between choices, by name."""
        own = {key: value for key, value in self.weights if key not in _LIKES}
        return own | ({} if self.recency is None else {"recency": self.recency})


@dataclass(frozen=True)
class Baseline:
    """A baseline that is ready to score.

    Attributes:
        scorer: The fitted recommender.
        settings: What validation chose, by name.
        choices: Number of settings that it chose from; 1 without a choice or without validation.
    """

    scorer: Scorer
    settings: dict[str, Any]
    choices: int

    def __str__(self) -> str:
        if not self.settings:
            return "no settings"
        settings = ", ".join(f"{key} {value:g}" for key, value in self.settings.items())
        how = (
            f"chosen from {self.choices} on validation"
            if self.choices > 1
            else "not tuned: there is no validation split"
        )
        return f"{settings} ({how})"


_LIKES = {"train_on_likes": True, "query_likes": True}


def _grid(
    recencies: tuple[float | None, ...] = (None,),
    fixed: dict[str, Any] | None = None,
    **choices: Any,
) -> list[_Settings]:
    fixed = fixed or {}
    return [
        _Settings(tuple((fixed | dict(zip(choices, values, strict=True))).items()), recency)
        for *values, recency in itertools.product(*choices.values(), recencies)
    ]


# Up to eight settings each; the first one is the default without validation.
_RECENT = (20.0, 5.0)
_KINDS: dict[str, tuple[Any, list[_Settings]]] = {
    "Random": (Random, _grid()),
    "MostPop": (MostPop, _grid()),
    "ItemKNN": (ItemKNN, _grid(neighbours=(100, 400), shrink=(50.0, 0.0))),
    "ItemKNN, recency": (ItemKNN, _grid(_RECENT, neighbours=(100, 400), shrink=(50.0, 0.0))),
    "RidgeKNN, recency": (RidgeKNN, _grid(_RECENT, regularization=(500.0, 200.0))),
    "EASE": (EASE, _grid(regularization=(500.0, 200.0, 1000.0))),
    "EASE, likes": (EASE, _grid(fixed=_LIKES, regularization=(500.0, 200.0, 1000.0))),
    "EASE, recency": (EASE, _grid(_RECENT, regularization=(500.0, 1000.0))),
}
BASELINES = tuple(_KINDS)
"""Names of all baselines."""


def names_for(num_items: int) -> tuple[str, ...]:
    """The baselines of a report on a catalogue of this size."""
    is_large = num_items > MOST_ITEMS_OF_EASE
    left_out = ("Random", *(("EASE", "EASE, likes", "EASE, recency") if is_large else ()))
    left_out += () if is_large else ("RidgeKNN, recency",)
    return tuple(name for name in BASELINES if name not in left_out)


def tuned_baselines(
    split: Split,
    k: int,
    names: Collection[str] = BASELINES,
    select: Selection = "ndcg",
    seen: SeenItems = "exclude",
    progress: bool = False,
) -> Iterator[tuple[str, Baseline]]:
    """Chooses the settings of baselines on validation, then fits them to train and validation.

    Every choice is fitted to the train split and ranks the catalogue for the users of the
    validation split; the one with the best mean is fitted again to train and validation. Choices
    that differ in the recency of queries alone are fitted once.

    Args:
        split: The splits of a log. Without validation targets, the default of each is taken.
        k: Length of the lists.
        names: Which baselines, of `BASELINES`.
        select: The score that chooses, see `emorec.evaluation.top_k.Evaluation.score`.
        seen: Whether lists may hold items that their user has seen.
        progress: Whether to show a progress bar.

    Yields:
        Name and baseline, one at a time, because a fitted one may be large.
    """
    chosen = _chosen(split, k, names, select, seen, progress)
    for name in names:
        kind, grid = _KINDS[name]
        settings = chosen.get(name, grid[0])
        scorer = _fitted(kind, settings, split.history)
        yield name, Baseline(scorer, settings.shown, len(grid) if name in chosen else 1)


def _chosen(
    split: Split, k: int, names: Collection[str], select: Selection, seen: SeenItems, progress: bool
) -> dict[str, _Settings]:
    """The best choice of each baseline that has a choice, by name; none without validation."""
    targets = split.valid_targets
    if not len(targets):
        return {}
    users = np.unique(targets.user)
    excluded = excluded_items(split.train, seen)
    same_weights = defaultdict(list)
    for name in names:
        kind, grid = _KINDS[name]
        for settings in grid if len(grid) > 1 else ():
            same_weights[kind, settings.weights].append((name, settings))
    scores: dict[str, dict[_Settings, float]] = defaultdict(dict)
    bar = tqdm(same_weights.items(), "baselines", leave=False, disable=not progress)
    for (kind, weights), members in bar:
        model = kind(**dict(weights)).fit(split.train)
        for name, settings in members:
            model.ask(split.train, settings.recency)
            topk = recommend_top_k(model, users, excluded, k)
            scores[name][settings] = evaluate(topk, users, targets, k).score(select)
    return {
        # An undefined figure, such as that of likes where none is held out, is the worst.
        name: max(own, key=lambda settings: np.nan_to_num(own[settings], nan=-np.inf))
        for name, own in scores.items()
    }


def _fitted(kind: Any, settings: _Settings, log: Interactions) -> Scorer:
    model = kind(**dict(settings.weights))
    if settings.recency is not None:
        model.recency = settings.recency
    return model.fit(log)
