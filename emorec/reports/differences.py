"""Compares one model with each other one, in plain words."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from emorec.evaluation.significance import compare
from emorec.evaluation.top_k import LOWER_IS_BETTER, Evaluation

__all__ = ["differences", "differences_table"]

_METRICS = {
    "ndcg_any": "NDCG any",
    "ndcg_likes": "NDCG likes",
    "ndcg_dislikes": "NDCG dislikes",
}

_LEVEL = 0.05
_NOTE = """\
NDCG dislikes is better where it is lower. p: how often chance alone would make a difference as
large if both models were equally good, corrected for there being {number} differences (Holm).
Better or worse is said where p is below {level}; elsewhere it may be chance. It is about these
lists: training with another seed moves figures, too."""


def differences(models: Mapping[str, Evaluation], ours: str) -> pd.DataFrame:
    """One model less each other one, on the same users, and how sure that is.

    Args:
        models: Evaluations by name, of the same users.
        ours: The model that is compared with the others.

    Returns:
        One row per metric (NDCG of any, likes and dislikes) and other model, with the columns
        ``metric`` and ``peer``; ``users`` who have a value, and over them the means ``ours`` and
        ``theirs`` and their ``difference``; ``p``, the greater p-value of the paired t-test and the
        Wilcoxon signed-rank test, with Holm's correction over all rows; and ``verdict``: "better"
        or "worse" where p is below .05, else "unclear".

    Raises:
        ValueError: If there is no model ``ours`` or no other.
    """
    frames = {name: evaluation.per_user for name, evaluation in models.items()}
    table = compare(frames, ours, list(_METRICS)).reset_index()
    table["difference"] = table["ours"] - table["theirs"]
    table["p"] = table[["holm_t", "holm_wilcoxon"]].max(axis=1)
    is_lower = table["difference"] < 0
    is_better = is_lower == table["metric"].isin(LOWER_IS_BETTER)
    table["verdict"] = is_better.map({True: "better", False: "worse"})
    table["verdict"] = table["verdict"].where(table["p"] < _LEVEL, "unclear")
    return table[["metric", "peer", "users", "ours", "theirs", "difference", "p", "verdict"]]


def differences_table(models: Mapping[str, Evaluation], ours: str) -> str:
    """`differences` as aligned text, with what it means; undefined values are ``-``.

    Raises:
        ValueError: If there is no model ``ours`` or no other.
    """
    table = differences(models, ours)
    note = _NOTE.format(number=len(table), level=_LEVEL)
    names = ["", "other model", ours, "other", "difference", "p", f"{ours} is"]
    table["metric"] = table["metric"].map(_METRICS)
    four = "{:.4f}".format
    text = (
        table.drop(columns="users")
        .set_axis(names, axis=1)
        .to_string(
            index=False,
            na_rep="-",
            formatters=[str, str, four, four, "{:+.4f}".format, _p_text, str],
        )
    )
    return "\n".join([f"{ours} against every other model, on the same users", text, note])


def _p_text(p: float) -> str:
    return "<0.0001" if p < 0.0001 else f"{p:.4f}"
