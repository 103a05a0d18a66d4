"""Updates: a recommender learns on from new events, and is judged beside the one before.

`EmoRec.update` trains; this module is about run folders and the judgement.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from emorec.comparison import Comparison, compare_runs
from emorec.config import Config
from emorec.data.splits import Split
from emorec.evaluation.significance import paired_test
from emorec.evaluation.top_k import TopK, evaluate
from emorec.experiment import begin_run
from emorec.recommender import EmoRec
from emorec.run_folder import START
from emorec.texts import count

__all__ = ["BEFORE", "Verdict", "evaluate_run", "judge_update", "prepare_update", "verdict_of"]

BEFORE = "before the update"
"""Name of the earlier recommender among the results."""
_LEVEL = 0.05  # of the tests
_JUDGED = {"ndcg_likes": ("NDCG of likes", 1), "recall_dislikes": ("recall of dislikes", -1)}


@dataclass(frozen=True)
class Verdict:
    """Whether an update should take the place of the recommender before it.

    Attributes:
        is_offered: Whether it is not worse.
        reasons: A line for each figure that it is judged by.
    """

    is_offered: bool
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        word = "not worse, and offered" if self.is_offered else "worse, and not offered"
        return "\n".join([f"The update is {word}:", *(f"  {reason}" for reason in self.reasons)])


def prepare_update(trained: EmoRec, events: str | Path, config: Config, folder: Path) -> Split:
    """Adds new events to the log of a recommender, and writes what a killed run needs to resume.

    Args:
        trained: The recommender that training starts from; a copy is kept in the new folder.
        events: File of the new events, with the columns of the log; or the URL of a store.
        config: The run, with the model of the trained one.
        folder: The run folder of the update.

    Raises:
        ValueError: If the events cannot be used, see `EmoRec.update`.
    """
    split = trained.split_with(events)
    trained.save(folder / START)  # first: without it, the run would be resumed as a new one
    begin_run(folder, config, split, trained.items_for(split.train.items))
    return split


def evaluate_run(recommender: EmoRec, folder: Path, k: int, progress: bool = True) -> Comparison:
    """Evaluates the recommender of a run folder beside baselines.

    That of an update is also evaluated beside the one that it started from, see `judge_update`.
    """
    if (folder / START).is_dir():
        return judge_update(recommender, EmoRec.load(folder / START), k, progress)
    return compare_runs({recommender.config.preset: recommender}, k, progress)


def judge_update(updated: EmoRec, before: EmoRec, k: int = 10, progress: bool = True) -> Comparison:
    """Evaluates an update on the newest events, beside the recommender that it started from.

    Both get all events before those, so what differs is what was learned: the lists of the earlier
    one depend on them, but hold none of the new items. Baselines are fitted anew.

    Args:
        updated: What `EmoRec.update` returned, or the run of ``emorec-train --continue``.
        before: The recommender that it started from.
        k: Length of the lists.
        progress: Whether to show progress bars.

    Returns:
        A row ``emorec`` (the preset's name) and a row "before the update", beside baselines.
    """
    name = updated.config.preset
    comparison = compare_runs({name: updated}, k, progress)
    split, seen = updated.split, updated.config.evaluation.seen
    users = np.unique(split.test.user)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it does not know is what it is judged by
        lists = before.recommend(
            split.train.users.lookup(users),
            k,
            split.history,
            allow_seen=seen == "include",
            before_test=False,
        )
    place = pd.Series(np.arange(len(users)), split.train.users.lookup(users))
    items = np.full((len(users), k), -1)
    items[place[lists["user"]], lists["rank"] - 1] = split.train.items.indices(lists["item"])
    topk = TopK(torch.from_numpy(items), torch.zeros(items.shape))
    rows = {name: comparison.results[name], BEFORE: evaluate(topk, users, split.test, k)}
    return replace(comparison, results=rows | comparison.results)


def verdict_of(comparison: Comparison) -> Verdict:
    """Whether an update is not worse than the recommender that it started from.

    It is worse if NDCG of likes is lower, or the recall of dislikes higher, with p below 0.05 in
    the paired t-test over users. Users who have no such event in the test split do not count; with
    fewer than two that do, the figure decides nothing.

    Args:
        comparison: What `judge_update` returned.
    """
    updated = next(name for name in comparison.results if name != BEFORE)
    new, old = (comparison.results[name].per_user for name in (updated, BEFORE))
    is_offered, reasons = True, []
    for column, (name, sign) in _JUDGED.items():
        test = paired_test(new[column], old[column])
        is_worse = sign * test.difference < 0 and test.p_t < _LEVEL
        is_offered &= not is_worse
        reasons.append(
            f"{name} {new[column].mean():.4f}, before {old[column].mean():.4f}: p {test.p_t:.3f} "
            f"over {count(test.num_users, 'user')}{' (worse)' if is_worse else ''}"
        )
    return Verdict(is_offered, tuple(reasons))
