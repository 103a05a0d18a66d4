"""Parses times of any common kind into int64 since the epoch, in the unit that they need."""

from __future__ import annotations

from typing import Literal, NamedTuple, cast, get_args

import numpy as np
import pandas as pd

from emorec.data.interactions import TICKS_PER_DAY, TimeUnit
from emorec.data.tables import Table, to_texts

__all__ = ["UNIT_NAMES", "Order", "TimeUnitOption", "Times", "no_times", "parse_times"]

TimeUnitOption = Literal["auto", "s", "ms", "us", "ns"]
Order = Literal["file", "none"]
_UNITS: tuple[TimeUnit, ...] = ("s", "ms", "us", "ns")
UNIT_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
# From here on, a number is read in the next finer unit: it would be the year 5138 in the coarser
# unit and is March 1973 in the finer one.
_FIRST_OF_FINER_UNIT = (10**11, 10**14, 10**17)
# Dates without separators, and the digits after their day. As times since the epoch, all of a log
# would lie within one month of 1970, in 1976 or in the 27th century.
_DATE_FORMATS = {"%Y%m%d": 0, "%Y%m%d%H%M": 4, "%Y%m%d%H%M%S": 6}


class Times(NamedTuple):
    """Parsed times.

    Attributes:
        values: int64 ``[N]`` in ``unit``.
        unit: "s", "ms", "us" or "ns"; "none" where there are no times.
        note: How they were read, and the period that they cover.
    """

    values: np.ndarray
    unit: TimeUnit
    note: str

    @classmethod
    def of(cls, values: np.ndarray, unit: TimeUnit, note: str) -> Times:
        """Completes the note."""
        # Days since the epoch: NumPy's dates of nanoseconds end in 2262, those of days do not.
        first, last = (
            np.datetime64(int(time) // TICKS_PER_DAY[unit], "D")
            for time in (values.min(), values.max())
        )
        return cls(values, unit, f"{note}: {first} to {last} (UTC)")


def no_times(rows: int, order: Order) -> Times:
    """The times of a log without times; the note says what a model cannot learn then."""
    if order not in get_args(Order):
        raise ValueError(f"order must be 'file' or 'none', got {order!r}")
    note = (
        "no times: the order of rows is that of events, and a model cannot learn from elapsed time"
        if order == "file"
        else "no times and no order: held-out events are random, a model can learn neither from "
        "time nor from order, and sequence encoders see events in a random order"
    )
    return Times(np.zeros(rows, dtype=np.int64), "none", note)


def parse_times(
    table: Table, column: str, unit: TimeUnitOption = "auto", time_format: str | None = None
) -> Times:
    """Parses a column of times into the coarsest unit that is exact.

    Numbers (digits in text too) count from the epoch, but for dates without separators
    (20201231), which need a ``time_format`` ("%Y%m%d"). Fractions of seconds are kept to the
    microsecond. Anything else is a date: ISO 8601, or ``time_format``; without a zone it is UTC.

    Args:
        table: The table.
        column: Name of the column.
        unit: Unit of numbers: "s", "ms", "us", "ns", or "auto": by their size, seconds below
            1e11, milliseconds below 1e14, microseconds below 1e17, else nanoseconds. Of dates, the
            coarsest unit that they are kept in.
        time_format: How dates are written, as for ``datetime.strptime``.

    Raises:
        DataError: If a value is missing, negative, not a valid time, or the unit is ambiguous.
    """
    if unit not in get_args(TimeUnitOption):
        raise ValueError(
            f"time_unit must be one of {', '.join(get_args(TimeUnitOption))}, got {unit!r}"
        )
    raw = table.full_column(column, "time")
    if pd.api.types.is_datetime64_any_dtype(raw.dtype):
        return _from_dates(table, column, raw, unit)
    if pd.api.types.is_bool_dtype(raw.dtype):
        table.refuse(
            np.ones(len(raw), dtype=bool), column, f"is not a valid time; {_expected(table, None)}"
        )
    if pd.api.types.is_numeric_dtype(raw.dtype) and time_format is None:
        return _from_numbers(table, column, raw, unit)
    if pd.api.types.is_float_dtype(raw.dtype) and (raw % 1 == 0).all():
        raw = raw.astype(np.int64)  # 20201231.0, from a column that had missing values
    text = to_texts(raw)
    numbers = pd.to_numeric(text, errors="coerce")
    is_number = numbers.notna().to_numpy()
    if is_number.all() and time_format is None:
        return _from_numbers(table, column, numbers, unit)
    dates = pd.to_datetime(text, utc=True, format=time_format or "ISO8601", errors="coerce")
    # A year alone would pass as a date: digits stay numbers.
    is_date = dates.notna().to_numpy() & (~is_number | (time_format is not None))
    is_time = is_date if time_format is not None else is_date | is_number
    table.refuse(~is_time, column, f"is not a valid time; {_expected(table, time_format)}")
    if not is_date.all():
        rarer = is_number if is_number.sum() <= is_date.sum() else is_date
        table.refuse(rarer, column, "does not fit the others: some are numbers, some are dates")
    return _from_dates(table, column, dates, unit)


def _from_numbers(table: Table, column: str, raw: pd.Series, unit: TimeUnitOption) -> Times:
    numbers = raw.to_numpy()
    if not np.issubdtype(numbers.dtype, np.integer):
        numbers = raw.to_numpy(dtype=np.float64)
        table.refuse(
            ~np.isfinite(numbers), column, f"is not a valid time; {_expected(table, None)}"
        )
    table.refuse(numbers < 0, column, "is negative; times start in 1970")
    table.refuse(numbers >= 2**63, column, "is too large for nanoseconds since 1970")
    if unit == "auto":
        _refuse_compact_dates(table, column, numbers)
        chosen, note = _unit_by_size(table, column, numbers), "by their size"
    else:
        chosen, note = unit, "as given"
    values, kept = _whole_ticks(table, column, numbers, chosen)
    note = f"times read as {UNIT_NAMES[chosen]} {note}"
    return Times.of(values, kept, note if kept == chosen else f"{note}, kept as {UNIT_NAMES[kept]}")


def _refuse_compact_dates(table: Table, column: str, numbers: np.ndarray) -> None:
    latest = numbers.max(initial=0, keepdims=True).astype(np.int64)
    for time_format, later_digits in _DATE_FORMATS.items():
        if not _looks_like_date(latest // 10**later_digits).any():
            continue
        looks_like_date = _looks_like_date(numbers.astype(np.int64) // 10**later_digits)
        if looks_like_date.any() and (looks_like_date | (numbers == 0)).all():
            table.refuse(
                looks_like_date,
                column,
                f"looks like a date; {table.remedy('time_format', time_format)}, or "
                f"{table.remedy('time_unit', 's')} (or ms) if it is not one",
            )


def _unit_by_size(table: Table, column: str, numbers: np.ndarray) -> TimeUnit:
    place = np.searchsorted(_FIRST_OF_FINER_UNIT, numbers, side="right")
    finest = int(place.max(initial=0))
    differs = (place != finest) & (numbers > 0)
    if differs.any():
        other = int((place == finest).argmax())
        table.refuse(
            differs,
            column,
            f"looks like {UNIT_NAMES[_UNITS[place[differs.argmax()]]]}, {numbers[other]} at "
            f"{table.place(other)} like {UNIT_NAMES[_UNITS[finest]]}; use one unit, or "
            f"{table.remedy('time_unit', _UNITS[finest])} if that is the unit of all",
        )
    return _UNITS[finest]


def _whole_ticks(
    table: Table, column: str, numbers: np.ndarray, unit: TimeUnit
) -> tuple[np.ndarray, TimeUnit]:
    """Times as whole numbers in ``unit``, or where there are fractions in a finer one."""
    if np.issubdtype(numbers.dtype, np.integer) or (numbers == np.floor(numbers)).all():
        return numbers.astype(np.int64), unit
    finer = _UNITS[_UNITS.index(unit) + 1 :][:2]
    if not finer:
        table.refuse(numbers != np.floor(numbers), column, "is a fraction of a nanosecond")
    for chosen in finer:
        factor = TICKS_PER_DAY[chosen] // TICKS_PER_DAY[unit]
        ticks = np.rint(numbers * factor)
        # What a fraction of so many digits may be off by, as floats hold it.
        if (np.abs(numbers * factor - ticks) <= np.spacing(numbers) * factor).all():
            break
    table.refuse(ticks >= 2**63, column, f"is too large to be kept as {UNIT_NAMES[chosen]}")
    return ticks.astype(np.int64), chosen


def _from_dates(table: Table, column: str, dates: pd.Series, unit: TimeUnitOption) -> Times:
    if dates.dt.tz is not None:
        dates = dates.dt.tz_convert("UTC").dt.tz_localize(None)
    stamps = dates.to_numpy()
    ticks = stamps.astype(np.int64)
    table.refuse(ticks < 0, column, "is before 1970; times start there")
    own = cast(TimeUnit, np.datetime_data(stamps.dtype)[0])
    least = "s" if unit == "auto" else unit
    chosen = next(  # at the latest the dates' own unit, of which nothing is cut
        each
        for each in _UNITS[_UNITS.index(least) :]
        if not (ticks % max(1, TICKS_PER_DAY[own] // TICKS_PER_DAY[each])).any()
    )
    if factor := TICKS_PER_DAY[chosen] // TICKS_PER_DAY[own]:
        table.refuse(
            ticks > (2**63 - 1) // factor, column, f"is too late to be kept as {UNIT_NAMES[chosen]}"
        )
        ticks = ticks * factor
    else:
        ticks = ticks // (TICKS_PER_DAY[own] // TICKS_PER_DAY[chosen])
    return Times.of(ticks, chosen, f"times are dates, kept as {UNIT_NAMES[chosen]}")


def _looks_like_date(numbers: np.ndarray) -> np.ndarray:
    """Which numbers read YYYYMMDD, such as 20201231, bool ``[N]``."""
    year, month, day = numbers // 10_000, numbers // 100 % 100, numbers % 100
    return (1900 <= year) & (year <= 2100) & (1 <= month) & (month <= 12) & (1 <= day) & (day <= 31)


def _expected(table: Table, time_format: str | None) -> str:
    if time_format is not None:
        return f"expected a date such as {time_format!r}"
    return (
        "expected seconds, milliseconds, microseconds or nanoseconds since the epoch, such as "
        "978300760, or ISO dates, such as 2000-12-31T22:12:40+00:00; for dates written otherwise "
        f"{table.remedy('time_format', '%d/%m/%Y')}"
    )
