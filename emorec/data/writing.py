"""Interactions as a table with the default columns, and the settings that read it again."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from emorec.data.feedback import Feedback
from emorec.data.interactions import Interactions

__all__ = ["ID_COLUMNS", "frames_of", "settings_of"]

ID_COLUMNS = ("user_id", "item_id")
_LABELS = np.array([kind.label for kind in Feedback], dtype=object)


def frames_of(log: Interactions, block: int = 100_000) -> Iterator[pd.DataFrame]:
    """Yields the rows of a log in its order, in blocks, with the users' own ids.

    Args:
        log: The log.
        block: Rows of a frame.

    Yields:
        Frames with the columns ``user_id``, ``item_id``, ``feedback`` (labels of the kinds) and
        ``timestamp`` (int64 in the log's unit; absent where the log has no times). At least one,
        which is empty if the log is.
    """
    for start in range(0, max(len(log), 1), block):
        rows = log.select(np.arange(start, min(start + block, len(log))))
        columns = {
            "user_id": log.users.lookup(rows.user),
            "item_id": log.items.lookup(rows.item),
            "feedback": _LABELS[rows.feedback],
        }
        if log.time_unit != "none":
            columns["timestamp"] = rows.time
        yield pd.DataFrame(columns)


def settings_of(log: Interactions) -> tuple[str, ...]:
    """Settings that read what `frames_of` writes, beside the defaults.

    Numbers of seconds are known by their size. Other units are named, because those of a log that
    counts from a start of its own are not.
    """
    settings = ["data.feedback_column=feedback"]
    if log.time_unit == "none":
        settings.append("data.time_column=")
    elif log.time_unit != "s":
        settings.append(f"data.time_unit={log.time_unit}")
    return tuple(settings)
