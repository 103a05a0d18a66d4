"""Times of any common kind as int64 seconds or milliseconds since the epoch."""

from __future__ import annotations

from typing import Literal, NamedTuple, cast

import numpy as np
import pandas as pd

from emorec.data.interactions import TICKS_PER_DAY, TimeUnit
from emorec.data.tables import Table, column_remedy

__all__ = ["TimeUnitOption", "Times", "parse_times"]

TimeUnitOption = Literal["auto", "s", "ms"]
_FIRST_MILLISECONDS = 10**11  # as seconds the year 5138, as milliseconds March 1973
_FIRST_MICROSECONDS = 10**14
# Dates without separators, and the digits after their day. As times since the epoch, all of a log
# would lie within one month of 1970, in 1976 or in the 27th century.
_DATE_FORMATS = {"%Y%m%d": 0, "%Y%m%d%H%M": 4, "%Y%m%d%H%M%S": 6}


class Times(NamedTuple):
    """Parsed times.

    Attributes:
        values: int64 ``[N]`` in ``unit``.
        unit: "s" or "ms".
        note: How they were understood, and from when to when they go.
    """

    values: np.ndarray
    unit: TimeUnit
    note: str

    @classmethod
    def of(cls, values: np.ndarray, unit: TimeUnit, note: str) -> Times:
        """Completes the note."""
        first, last = (np.datetime64(int(time), unit) for time in (values.min(), values.max()))
        days = " to ".join(np.datetime_as_string([first, last], unit="D"))
        return cls(values, unit, f"{note}: {days} (UTC)")


def parse_times(
    table: Table, column: str, unit: TimeUnitOption = "auto", time_format: str | None = None
) -> Times:
    """Reads a column of times.

    Whole numbers (digits in text too) are seconds or milliseconds since the epoch, but for dates
    without separators (20201231), which need a ``time_format`` ("%Y%m%d"). Anything else
    is a date: ISO 8601, or ``time_format``; without a zone it is UTC. Dates become seconds, or
    milliseconds where one has a fraction of a second and ``unit`` is "auto".

    Args:
        table: The table.
        column: Name of the column.
        unit: "s", "ms", or "auto": milliseconds from 1e11 on, seconds below.
        time_format: How dates are written, as for ``datetime.strptime``.

    Raises:
        DataError: If a value is missing, negative, no time, or the unit cannot be told.
    """
    if unit not in ("auto", *TICKS_PER_DAY):
        raise ValueError(f"time_unit must be 'auto', 's' or 'ms', got {unit!r}")
    raw = table.full_column(column, "time", column_remedy("time"))
    if pd.api.types.is_datetime64_any_dtype(raw.dtype):
        return _from_dates(table, column, raw, unit)
    if pd.api.types.is_bool_dtype(raw.dtype):
        table.refuse(np.ones(len(raw), dtype=bool), column, f"is no time; {_expected(None)}")
    if pd.api.types.is_numeric_dtype(raw.dtype) and time_format is None:
        return _from_numbers(table, column, raw, unit)
    if pd.api.types.is_float_dtype(raw.dtype) and (raw % 1 == 0).all():
        raw = raw.astype(np.int64)  # 20201231.0, for want of a missing value elsewhere
    text = raw.astype(str)
    numbers = pd.to_numeric(text, errors="coerce")
    is_number = numbers.notna().to_numpy()
    if is_number.all() and time_format is None:
        return _from_numbers(table, column, numbers, unit)
    dates = pd.to_datetime(text, utc=True, format=time_format or "ISO8601", errors="coerce")
    # A year alone would pass as a date: digits stay numbers.
    is_date = dates.notna().to_numpy() & (~is_number | (time_format is not None))
    is_time = is_date if time_format is not None else is_date | is_number
    table.refuse(~is_time, column, f"is no time; {_expected(time_format)}")
    if not is_date.all():
        rarer = is_number if is_number.sum() <= is_date.sum() else is_date
        table.refuse(rarer, column, "does not go with the others: some are numbers, some are dates")
    return _from_dates(table, column, dates, unit)


def _from_numbers(table: Table, column: str, raw: pd.Series, unit: TimeUnitOption) -> Times:
    numbers = raw.to_numpy()
    if not np.issubdtype(numbers.dtype, np.integer):
        numbers = raw.to_numpy(dtype=np.float64)
        table.refuse(~np.isfinite(numbers), column, f"is no time; {_expected(None)}")
        table.refuse(
            numbers != np.floor(numbers),
            column,
            "has a fraction; times are whole seconds or milliseconds since the epoch "
            f"(multiply by 1000, round, and give {_option('unit', 'ms')})",
        )
    table.refuse(numbers < 0, column, "is negative; times count from 1970 on")
    table.refuse(
        numbers >= _FIRST_MICROSECONDS,
        column,
        "is too large for milliseconds; divide microseconds by 1000, nanoseconds by 1000000",
    )
    times = numbers.astype(np.int64)
    if unit != "auto":
        return Times.of(times, unit, f"times are {_NAMES[unit]}, as told")
    for time_format, later_digits in _DATE_FORMATS.items():
        looks_like_date = _looks_like_date(times // 10**later_digits)
        if looks_like_date.any() and (looks_like_date | (times == 0)).all():
            table.refuse(
                looks_like_date,
                column,
                f"looks like a date; give {_option('format', time_format)}, or "
                f"{_option('unit', 's')} or 'ms' if it is none",
            )
    is_long = times >= _FIRST_MILLISECONDS
    if is_long.any():
        other = int(is_long.argmax())
        table.refuse(
            ~is_long & (times > 0),
            column,
            f"looks like seconds, {times[other]} at {table.place(other)} like milliseconds; "
            f"use one unit, or give {_option('unit', 's')} or 'ms'",
        )
    told: TimeUnit = "ms" if is_long.any() else "s"
    return Times.of(times, told, f"times taken as {_NAMES[told]} by their size")


def _from_dates(table: Table, column: str, dates: pd.Series, unit: TimeUnitOption) -> Times:
    if dates.dt.tz is not None:
        dates = dates.dt.tz_convert("UTC").dt.tz_localize(None)
    ticks = dates.to_numpy().astype("datetime64[ms]").astype(np.int64)
    table.refuse(ticks < 0, column, "is before 1970; times count from there on")
    whole = bool((ticks % 1000 == 0).all())
    chosen = cast(TimeUnit, unit if unit != "auto" else "s" if whole else "ms")
    if chosen == "s":
        ticks = ticks // 1000
    return Times.of(ticks, chosen, f"times are dates, kept as {_NAMES[chosen]}")


def _looks_like_date(numbers: np.ndarray) -> np.ndarray:
    """Which numbers read YYYYMMDD, such as 20201231, bool ``[N]``."""
    year, month, day = numbers // 10_000, numbers // 100 % 100, numbers % 100
    return (1900 <= year) & (year <= 2100) & (1 <= month) & (month <= 12) & (1 <= day) & (day <= 31)


def _option(name: str, value: str) -> str:
    return f"time_{name}={value!r} (emorec-train --set data.time_{name}={value})"


_NAMES = {"s": "seconds", "ms": "milliseconds"}


def _expected(time_format: str | None) -> str:
    if time_format is not None:
        return f"expected is a date as {time_format!r}"
    return (
        "expected are whole seconds or milliseconds since the epoch, such as 978300760, "
        "or ISO dates, such as 2000-12-31T22:12:40+00:00; for dates written otherwise give "
        f"{_option('format', '%d/%m/%Y')}"
    )
