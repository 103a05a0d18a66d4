"""Scores of given pairs of users and items."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch

from emorec.data.tables import as_frame
from emorec.evaluation.scores import Scorer, scores_in_chunks
from emorec.inference.request import Request
from emorec.texts import plain, shortened

__all__ = ["columns_of_pairs", "score_pairs", "without_score"]


def columns_of_pairs(pairs: Any, user_column: str, item_column: str) -> tuple[list[Any], list[Any]]:
    """The users and the items of pairs, ``P`` each.

    Args:
        pairs: A DataFrame of any library with the two columns, or with ``user`` and ``item``, as
            lists have; or pairs of user and item.
        user_column: Name of the column of users.
        item_column: Name of the column of items.

    Raises:
        ValueError: If it is something else.
    """
    frame = as_frame(pairs)
    if frame is not None:
        for names in ((user_column, item_column), ("user", "item")):
            if set(names) <= set(frame.columns):
                user, item = (frame[name].tolist() for name in names)
                return user, item
        raise ValueError(
            f"pairs has the columns {', '.join(map(str, frame.columns))}; it needs {user_column} "
            f"and {item_column}, or user and item"
        )
    if isinstance(pairs, str | bytes | dict) or not hasattr(pairs, "__iter__"):
        raise ValueError(
            "pairs must be a DataFrame or a list of (user, item), got "
            f"{type(pairs).__name__} {shortened(pairs)!r}"
        )
    users, items = [], []
    for number, pair in enumerate(pairs, 1):
        if isinstance(pair, str | bytes) or not hasattr(pair, "__len__") or len(pair) != 2:
            raise ValueError(f"pair {number} must be (user, item), got {shortened(pair)!r}")
        users.append(plain(pair[0]))
        items.append(plain(pair[1]))
    return users, items


def score_pairs(request: Request, items: list[Any]) -> pd.DataFrame:
    """Scores pairs of users and items, in their order.

    Args:
        request: The users of the pairs, ``P``.
        items: The items' own ids, ``P``.

    Returns:
        Columns ``user, item, score, liked, source``; without ``liked`` if the model does not
        predict the polarity of items. They have the values of lists, seen items included:
        ``score`` is missing for users whom the model does not serve, and everything is missing for
        unknown items.
    """
    item, num_items = request.known.items.indices(items), request.known.num_items
    is_known = item >= 0
    is_scored = is_known & request.is_served
    users, found = request.index[is_scored], item[is_scored]
    columns: dict[str, Any] = {"user": request.users, "item": items}
    columns["score"] = np.full(len(items), np.nan, np.float32)
    if request.predicts_liked:
        columns["liked"] = np.full(len(items), np.nan, np.float32)
        prior = request.item_prior()(torch.zeros(1, dtype=torch.int64))[0].numpy()
        columns["liked"][is_known] = prior[item[is_known]]
    if request.scorer is not None:
        columns["score"][is_scored] = _gathered(request.scorer, users, found, num_items)
        if request.predicts_liked:
            polarity = request.scorer.polarity
            columns["liked"][is_scored] = _gathered(polarity, users, found, num_items)
    source = np.where(request.is_served, "model", "popular").astype(object)
    source[~is_known] = None
    return pd.DataFrame({**columns, "source": source})


def without_score(request: Request, items: list[Any]) -> str | None:
    """Says which pairs get no score, and why; None if all do."""
    is_unknown = request.known.items.indices(items) < 0
    wrong, reasons = ~request.is_served | is_unknown, []
    for rows, ids, what in (
        (~request.is_served, request.users, "of users without events"),
        (is_unknown, items, "of unknown items"),
    ):
        if rows.any():
            first = plain(ids[int(rows.argmax())])
            reasons.append(f"{int(rows.sum()):,} {what}, such as {first!r}")
    if not reasons:
        return None
    number = int(wrong.sum())
    have = "has" if number == 1 else "have"
    return f"{number:,} of {len(items):,} pairs {have} no score: {', and '.join(reasons)}"


def _gathered(scorer: Scorer, users: np.ndarray, items: np.ndarray, num_items: int) -> np.ndarray:
    """The scores of pairs, float32 ``[P]``; each user is scored once."""
    distinct, row = np.unique(users, return_inverse=True)
    order = np.argsort(row, kind="stable")
    found = np.empty(len(users), np.float32)
    for chunk, scores in scores_in_chunks(scorer, distinct, num_items):
        pairs = order[slice(*np.searchsorted(row[order], [chunk.start, chunk.stop]))]
        found[pairs] = scores.cpu()[row[pairs] - chunk.start, items[pairs]].numpy()
    return found
