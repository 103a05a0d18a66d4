"""Times of any common kind as int64 seconds or milliseconds since the epoch."""

from __future__ import annotations

from typing import Literal, NamedTuple, cast

import numpy as np
import pandas as pd

from emorec.data.interactions import TICKS_PER_DAY, TimeUnit
from emorec.data.tables import Table

__all__ = ["TimeUnitOption", "Times", "parse_times"]

TimeUnitOption = Literal["auto", "s", "ms"]
_FIRST_MILLISECONDS = 10**11  # as seconds the year 5138, as milliseconds March 1973
_FIRST_MICROSECONDS = 10**14


class Times(NamedTuple):
    """Parsed times.

    Attributes:
        values: int64 ``[N]`` in ``unit``.
        unit: "s" or "ms".
        note: How they were understood, one sentence.
    """

    values: np.ndarray
    unit: TimeUnit
    note: str


def parse_times(
    table: Table, column: str, unit: TimeUnitOption = "auto", time_format: str | None = None
) -> Times:
    """Reads a column of times.

    Whole numbers (digits in text too) are seconds or milliseconds since the epoch. Anything else
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
    raw = table.column(column, "time")
    missing = raw.isna().to_numpy()
    if missing.any():
        row = int(missing.argmax())
        raise table.error(row, column, None, f"the time is missing; {_expected()}")
    if pd.api.types.is_datetime64_any_dtype(raw.dtype):
        return _from_dates(table, column, raw, unit, None)
    if pd.api.types.is_numeric_dtype(raw.dtype) and not pd.api.types.is_bool_dtype(raw.dtype):
        return _from_numbers(table, column, raw, unit)
    if time_format is None:
        numbers = pd.to_numeric(raw.astype(str), errors="coerce")
        if numbers.notna().all():
            return _from_numbers(table, column, numbers, unit)
    return _from_dates(table, column, raw, unit, time_format)


def _from_numbers(table: Table, column: str, raw: pd.Series, unit: TimeUnitOption) -> Times:
    numbers = raw.to_numpy()
    if not np.issubdtype(numbers.dtype, np.integer):
        numbers = raw.to_numpy(dtype=np.float64)
        odd = ~np.isfinite(numbers)
        if odd.any():
            row = int(odd.argmax())
            raise table.error(row, column, numbers[row].item(), f"is no time; {_expected()}")
        odd = numbers != np.floor(numbers)
        if odd.any():
            row = int(odd.argmax())
            raise table.error(
                row,
                column,
                numbers[row].item(),
                "has a fraction; times are whole seconds or milliseconds since the epoch "
                "(multiply by 1000, round, and give time_unit='ms')",
            )
    _refuse(table, column, numbers, numbers < 0, "is negative; times count from 1970 on")
    _refuse(
        table,
        column,
        numbers,
        numbers >= _FIRST_MICROSECONDS,
        "is too large for milliseconds; divide microseconds by 1000, nanoseconds by 1000000",
    )
    times = numbers.astype(np.int64)
    if unit != "auto":
        return Times(times, unit, f"times are {_NAMES[unit]}, as told")
    in_milliseconds = times >= _FIRST_MILLISECONDS
    if in_milliseconds.any() and (~in_milliseconds & (times > 0)).any():
        short, long = int((~in_milliseconds & (times > 0)).argmax()), int(in_milliseconds.argmax())
        raise table.error(
            short,
            column,
            int(times[short]),
            f"looks like seconds, {int(times[long])} at {table.place(long)} like milliseconds; "
            "use one unit, or give time_unit='s' or 'ms'",
        )
    told: TimeUnit = "ms" if in_milliseconds.any() else "s"
    return Times(times, told, f"times taken as {_NAMES[told]} by their size (up to {times.max()})")


def _from_dates(
    table: Table, column: str, raw: pd.Series, unit: TimeUnitOption, time_format: str | None
) -> Times:
    dates = pd.to_datetime(raw, utc=True, format=time_format or "ISO8601", errors="coerce")
    wrong = dates.isna().to_numpy()
    if wrong.any():
        row = int(wrong.argmax())
        rows = int(wrong.sum())
        more = "" if rows == 1 else f" ({rows:,} rows have such times)"
        raise table.error(row, column, raw.iloc[row], f"is no time{more}; {_expected(time_format)}")
    ticks = dates.dt.tz_localize(None).to_numpy().astype("datetime64[ms]").astype(np.int64)
    _refuse(table, column, raw.to_numpy(), ticks < 0, "is before 1970; times count from there on")
    whole = bool((ticks % 1000 == 0).all())
    chosen = cast(TimeUnit, unit if unit != "auto" else "s" if whole else "ms")
    if chosen == "s":
        ticks = ticks // 1000
    return Times(ticks, chosen, f"times are dates, kept as {_NAMES[chosen]} (UTC)")


def _refuse(table: Table, column: str, values: np.ndarray, wrong: np.ndarray, why: str) -> None:
    if wrong.any():
        row = int(wrong.argmax())
        value = values[row]
        raise table.error(
            row, column, value.item() if isinstance(value, np.generic) else value, why
        )


_NAMES = {"s": "seconds", "ms": "milliseconds"}


def _expected(time_format: str | None = None) -> str:
    if time_format is not None:
        return f"expected is a date as {time_format!r}"
    return (
        "expected are whole seconds or milliseconds since the epoch, such as 978300760, "
        "or ISO dates, such as 2000-12-31T22:12:40+00:00"
    )
