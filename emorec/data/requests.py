"""Times of requests: when lists are asked for, and the events that are known then."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from emorec.data.interactions import TICKS_PER_DAY, Interactions, TimeUnit
from emorec.texts import count, plain, shortened

__all__ = ["first_times", "newest_time", "requests_at", "until"]

_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_NEVER = np.iinfo(np.int64).max
_LAST_DAY = 365 * 3_000  # since 1970: a later time is a number in a finer unit than the log's


def newest_time(log: Interactions) -> np.ndarray:
    """The time of the newest event of all, once per user, int64 ``[U]``; 0 for an empty log."""
    return np.full(log.num_users, log.time.max(initial=0), dtype=np.int64)


def first_times(held_out: Interactions, history: Interactions) -> np.ndarray:
    """The time of each user's first held-out event, int64 ``[U]``.

    It is not before the user's last event in the history, whatever the split. Users without a
    held-out event get the newest time of the history.

    Args:
        held_out: Held-out events.
        history: The events before, of the same vocabularies.
    """
    first = np.full(history.num_users, _NEVER)
    np.minimum.at(first, held_out.user, held_out.time)
    first = np.where(first == _NEVER, newest_time(history), first)
    np.maximum.at(first, history.user, history.time)
    return first


def requests_at(
    at: Any, users: Sequence[Any], log: Interactions, unit: TimeUnit | None = None
) -> np.ndarray:
    """Times of requests that a caller gives, in the log's unit, by user index.

    Args:
        at: One time for all users, or a list of one per user. A time is a date (`datetime`, pandas
            ``Timestamp``, NumPy ``datetime64`` or ISO 8601 text; without a zone in UTC) or a number
            (digits in text too) that counts ``unit`` since 1970. Fractions of it are cut off.
        users: The users' own ids, ``B``; unknown ones are left out.
        log: The log.
        unit: Unit of numbers, not finer than the log's; None: the log's.

    Returns:
        int64 ``[U]``; the largest int64 for other users.

    Raises:
        ValueError: If the log has no times, a time is not valid, the number of times is neither 1
            nor that of the users, or a user is given twice with different times.
    """
    unit = unit or log.time_unit
    if log.time_unit == "none":
        raise ValueError(f"at: the log has no times, got {shortened(at)!r}; leave at out")
    if isinstance(at, dict | set | frozenset | pd.DataFrame):
        raise ValueError(
            f"at must be a time or a list of one time per user, got a {type(at).__name__}"
        )
    is_list = pd.api.types.is_list_like(at)
    values = pd.Series(list(at) if is_list else [at], dtype=object)
    if is_list and len(values) != len(users):
        raise ValueError(
            f"at has {count(len(values), 'time')} for {count(len(users), 'user')}; give one time "
            "for all users, or a list of one per user"
        )
    ticks = np.broadcast_to(_ticks(values, unit, log.time_unit), len(users))
    index = log.users.indices(users)
    requests = np.full(log.num_users, _NEVER)
    requests[index[index >= 0]] = ticks[index >= 0]
    differs = (index >= 0) & (requests[index] != ticks)
    if differs.any():
        user = plain(users[int(differs.argmax())])
        raise ValueError(
            f"at: user {user!r} is given twice with different times; ask for one time at a time"
        )
    return requests


def until(log: Interactions, requests: np.ndarray) -> Interactions:
    """The events of each user up to the time of the user's request, that time included.

    Args:
        log: The log.
        requests: In the log's unit, int64 ``[U]``.
    """
    is_known = log.time <= requests[log.user]
    return log if is_known.all() else log.select(is_known)


def _ticks(values: pd.Series, unit: TimeUnit, finer: TimeUnit) -> np.ndarray:
    """Times of any kind, dtype object ``[N]``, numbers in one unit, as whole numbers in a finer."""
    text = values.astype(str).str.strip()
    number = pd.to_numeric(text, errors="coerce").to_numpy(np.float64)
    is_number = np.isfinite(number)
    dates = pd.to_datetime(text.where(~is_number), utc=True, format="ISO8601", errors="coerce")
    _refuse(
        ~is_number & dates.isna().to_numpy(),
        values,
        "is not a valid time; give an ISO date such as 2026-11-29T10:00, without a zone in UTC, or "
        f"a number of {_NAMES[unit]} since 1970, as in the log",
    )
    stamps = dates.dt.tz_localize(None).to_numpy()
    days = stamps.astype("datetime64[D]").astype(np.float64)
    days = np.where(is_number, number / TICKS_PER_DAY[unit], days)
    _refuse(days < 0, values, "is before 1970; times start there")
    last = min(_LAST_DAY, (2**63 - 1) // TICKS_PER_DAY[finer] - 1)
    year = np.datetime64(last, "D").astype("datetime64[Y]")
    _refuse(
        days > last,
        values,
        f"is after the year {year}; numbers count {_NAMES[unit]}, as in the log",
    )
    ticks = stamps.astype(f"datetime64[{finer}]").astype(np.int64)
    numbers = pd.to_numeric(text[is_number]).to_numpy()  # whole numbers stay exact
    factor = TICKS_PER_DAY[finer] // TICKS_PER_DAY[unit]
    # np.floor makes floats of whole numbers, in NumPy before 2.1.
    ticks[is_number] = (numbers // 1).astype(np.int64) * factor
    return ticks


def _refuse(wrong: np.ndarray, values: pd.Series, why: str) -> None:
    """Raises an error about the first value that is wrong, bool ``[N]``, if there is one."""
    if wrong.any():
        row = int(wrong.argmax())
        where = f"at, time {row + 1}" if len(values) > 1 else "at"
        raise ValueError(f"{where}: {shortened(values.iloc[row])!r} {why}")
