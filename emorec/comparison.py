"""Comparisons: the lists of runs and of tuned baselines, evaluated on one test split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from tqdm import tqdm

from emorec.baselines import ItemPrior
from emorec.baselines.tuned import names_for, tuned_baselines
from emorec.config import Config
from emorec.data.splits import Split, how_tests_differ, is_repeat
from emorec.evaluation.calibration import reliability
from emorec.evaluation.popularity import popularity_of_lists
from emorec.evaluation.predictions import HeldOutPredictions, predict_held_out
from emorec.evaluation.scores import users_at_a_time
from emorec.evaluation.top_k import (
    Evaluation,
    Scorer,
    SeenItems,
    TopK,
    evaluate,
    excluded_items,
    recommend_top_k,
)
from emorec.nn.polarity import ItemPolarity
from emorec.recommender import EmoRec

__all__ = ["Comparison", "compare_runs", "evaluate_polarity", "evaluate_scorer"]

_MANY_REPEATS = 0.1  # of the held-out rows; from here on lists without seen items miss the point


@dataclass(frozen=True)
class Comparison:
    """Runs beside baselines, on one test split.

    Attributes:
        results: Evaluations by name of run or baseline.
        predictions: What `evaluate_polarity` returns, by name.
        settings: Those of the baselines, by name.
        notes: Remarks on the results, one line each.
        request_time: Names of the runs whose lists depend on the time of each user's first held-out
            event; all others do not.
        lists: Of the runs, by name: those of the users of the test split, in order.
        popularity: What `popularity_of_lists` returns, by name of run or baseline, and of the
            held-out events.
        calibration: What `reliability` returns of the predicted polarities, by name.
    """

    results: dict[str, Evaluation]
    predictions: dict[str, dict[str, float]]
    settings: dict[str, dict[str, float]]
    notes: list[str]
    request_time: list[str]
    lists: dict[str, TopK]
    popularity: dict[str, dict[str, float]]
    calibration: dict[str, pd.DataFrame]


def evaluate_scorer(
    scorer: Scorer,
    split: Split,
    k: int,
    batch_size: int | None = None,
    seen: SeenItems = "exclude",
) -> Evaluation:
    """Evaluates the lists of a scorer that was fitted to the events before the test split."""
    topk = _test_lists(scorer, split, k, batch_size, seen)
    return evaluate(topk, np.unique(split.test.user), split.test, k)


def _test_lists(
    scorer: Scorer, split: Split, k: int, batch_size: int | None, seen: SeenItems
) -> TopK:
    """The lists of the users of the test split, in order."""
    users, excluded = np.unique(split.test.user), excluded_items(split.history, seen)
    return recommend_top_k(scorer, users, excluded, k, chunk_size=batch_size)


def compare_runs(runs: Mapping[str, EmoRec], k: int, progress: bool = True) -> Comparison:
    """Evaluates the lists of runs for one test split, beside those of tuned baselines.

    The first run's ``evaluation.seen`` applies to all lists, and its ``evaluation.select`` chooses
    the settings of the baselines.

    Args:
        runs: Recommenders by name.
        k: Length of the lists.
        progress: Whether to show progress bars.

    Raises:
        ValueError: If the runs do not hold the same test split.
    """
    _require_same_test(runs)
    first = next(iter(runs.values()))
    split, options = first.split, first.config.evaluation
    results, settings, notes = {}, {}, []
    lists, popularity = {}, {}
    users = np.unique(split.test.user)
    counts = np.bincount(split.history.item, minlength=split.history.num_items)
    names = names_for(split.train.num_items)
    steps = len(runs) + len(names)
    size = users_at_a_time(split.train.num_items)
    with tqdm(
        total=steps, desc="evaluation", unit="model", leave=False, disable=not progress
    ) as bar:
        for name, run in runs.items():
            lists[name] = topk = _test_lists(run.scorer(), split, k, size, options.seen)
            results[name] = evaluate(topk, users, split.test, k)
            popularity[name] = popularity_of_lists(topk.items.numpy(), counts)
            bar.update()
        baselines = tuned_baselines(split, k, names, options.select, options.seen, progress)
        for name, baseline in baselines:
            topk = _test_lists(baseline.scorer, split, k, None, options.seen)
            results[name] = evaluate(topk, users, split.test, k)
            popularity[name] = popularity_of_lists(topk.items.numpy(), counts)
            settings[name] = baseline.settings
            if baseline.settings:
                notes.append(f"{name}: {baseline}")
            bar.update()
    timed = [name for name, run in runs.items() if run.config.sequence.request_time]
    notes = [*_note_of_request_time(timed), *_note_of_repeats(split, options.seen), *notes]
    predicted = _predicted_polarity(runs)
    return Comparison(
        results,
        {name: each.figures() for name, each in predicted.items()},
        settings,
        notes,
        timed,
        lists,
        {**popularity, "held-out events": popularity_of_lists(split.test.item, counts)},
        {name: reliability(each) for name, each in predicted.items()},
    )


def _note_of_request_time(names: list[str]) -> list[str]:
    """A note on the runs whose lists depend on the time of the held-out events."""
    if not names:
        return []
    return [
        f"{', '.join(names)}: given the time of each user's first held-out event "
        "(sequence.request_time); no other row is"
    ]


def _note_of_repeats(split: Split, seen: SeenItems) -> list[str]:
    """A note on held-out items that their user has seen; none without such items."""
    number, repeats = len(split.test), int(is_repeat(split.test, split.history).sum())
    if not repeats:
        return []
    note = f"{repeats:,} of {number:,} held-out rows are of items that their user has seen"
    is_many = repeats >= _MANY_REPEATS * number
    if seen == "include":
        fits = "which fits this log" if is_many else "although users seldom return to items here"
        return [f"{note}; lists may hold such items (evaluation.seen is 'include'), {fits}"]
    advice = "; users return to items here, so --set evaluation.seen=include fits this log"
    return [
        f"{note}; no list holds them (evaluation.seen is 'exclude'), so none can be hit"
        + (advice if is_many else "")
    ]


def evaluate_polarity(runs: Mapping[str, EmoRec]) -> dict[str, dict[str, float]]:
    """Evaluates the predicted P(positive) of the test events, beside the item prior.

    Args:
        runs: Recommenders with the same test split, by name.

    Returns:
        What `HeldOutPredictions.figures` returns, by name, of those that predict the polarity of
        items.
    """
    return {name: each.figures() for name, each in _predicted_polarity(runs).items()}


def _predicted_polarity(runs: Mapping[str, EmoRec]) -> dict[str, HeldOutPredictions]:
    """Predictions of the test events, beside the item prior; none if no run predicts them."""
    predicting = {
        name: run for name, run in runs.items() if isinstance(run.model.polarity, ItemPolarity)
    }
    if not predicting:
        return {}
    split = next(iter(predicting.values())).split
    predictors: dict[str, Scorer] = {
        name: run.scorer().polarity for name, run in predicting.items()
    }
    predictors["ItemPrior"] = ItemPrior().fit(split.history)
    return {name: predict_held_out(each, split.test) for name, each in predictors.items()}


def _require_same_test(runs: Mapping[str, EmoRec]) -> None:
    """Checks that all runs have the same test split.

    Raises:
        ValueError: If a run differs from the first one in the held-out events or those before.
    """
    (first, model), *others = runs.items()
    for name, other in others:
        difference = how_tests_differ(other.split, model.split)
        if difference:
            raise ValueError(
                f"{name} cannot be compared with {first}, because its test split differs: "
                f"{difference}{_differing_settings(other.config, model.config)}"
            )


def _differing_settings(one: Config, other: Config) -> str:
    """The settings in which two splits differ, in brackets; empty if there are none."""
    found = []
    for section in ("data", "split"):
        own, its = getattr(one, section).model_dump(), getattr(other, section).model_dump()
        # Each run has its own copy of these, or they have no effect on the split.
        for name in ("rules", "items", "title_column", "item_features"):
            own.pop(name, None)
        found += [f"{section}.{k} is {v!r}, not {its[k]!r}" for k, v in own.items() if v != its[k]]
    return f" ({', '.join(found)})" if found else ""
