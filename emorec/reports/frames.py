"""Data frames as small HTML tables."""

from __future__ import annotations

import html
import math
from typing import Any

import pandas as pd

__all__ = ["frame_html"]


def frame_html(frame: pd.DataFrame) -> str:
    """A frame as a table whose first column names the rows; everything is escaped.

    Numbers have four significant digits, or none after the point in a column of whole numbers;
    infinity is "∞", and missing values are "-".
    """
    first, *others = map(str, frame.columns)
    head = f'<th scope="col" class="model">{html.escape(first)}</th>' + "".join(
        f'<th scope="col">{html.escape(name)}</th>' for name in others
    )
    columns = [_texts(frame[name].tolist()) for name in frame.columns]
    body = "".join(
        f'<tr><th scope="row">{name}</th>'
        + "".join(f"<td>{value}</td>" for value in values)
        + "</tr>"
        for name, *values in zip(*columns, strict=True)
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _texts(values: list[Any]) -> list[str]:
    """The cells of a column, escaped."""
    numbers = [each for each in values if isinstance(each, float) and math.isfinite(each)]
    are_whole = all(each.is_integer() for each in numbers)
    return [_text(value, are_whole) for value in values]


def _text(value: Any, is_whole: bool) -> str:
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else html.escape(str(value))
    if math.isnan(value):
        return "-"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return f"{value:,.0f}" if is_whole else f"{value:#.4g}".rstrip(".")
