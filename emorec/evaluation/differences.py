"""How one model differs from each other, in words that ask for no statistics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from emorec.evaluation.ranking import LOWER_IS_BETTER, Evaluation
from emorec.evaluation.significance import compare

__all__ = ["METRICS", "differences", "differences_table"]

METRICS = {
    "ndcg_any": "NDCG any",
    "ndcg_likes": "NDCG likes",
    "ndcg_dislikes": "NDCG dislikes",
}
"""What is compared, and its labels."""

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
        One row per metric of `METRICS` and other model, with the columns ``metric`` and ``peer``;
        ``users`` who have a value, and over them the means ``ours`` and ``theirs`` and their
        ``difference``; ``p``, the greater p-value of the paired t-test and the Wilcoxon signed-rank
        test, with Holm's correction over all rows; and ``verdict``: "better" or "worse" where p is
        below .05, else "unclear".

    Raises:
        ValueError: If there is no model ``ours`` or no other.
    """
    frames = {name: evaluation.per_user for name, evaluation in models.items()}
    table = compare(frames, ours, list(METRICS)).reset_index()
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
    rows = [["", "other model", ours, "other", "difference", "p", f"{ours} is"]]
    row: Any
    for row in table.itertuples():
        p = "<0.0001" if row.p < 0.0001 else _number(row.p, ".4f")
        means = _number(row.ours, ".4f"), _number(row.theirs, ".4f")
        difference = _number(row.difference, "+.4f")
        rows.append([METRICS[row.metric], row.peer, *means, difference, p, row.verdict])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    texts = {0, 1, len(widths) - 1}  # columns that are aligned on the left
    lines = [
        "  ".join(
            cell.ljust(width) if column in texts else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    note = _NOTE.format(number=len(table), level=_LEVEL)
    return "\n".join([f"{ours} against every other model, on the same users", *lines, note])


def _number(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form)
