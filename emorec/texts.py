"""Formats values for messages and tables."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["count", "plain", "shortened", "visible"]

_LENGTH = 100  # characters of a value that messages show
# What moves a terminal's cursor, changes its state or turns the direction of writing, and what
# breaks lines.
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    r"""Escapes control characters, such as ESC as ``\u001b``; JSON keeps its value."""
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def plain(value: Any) -> Any:
    """Converts NumPy scalars to Python values, which print as themselves."""
    is_scalar = hasattr(value, "item") and getattr(value, "shape", None) == ()
    return value.item() if is_scalar else value


def shortened(value: Any) -> Any:
    """Shortens a value for a message: long texts are cut, huge numbers described."""
    value = plain(value)
    if isinstance(value, int) and abs(value) >= 10**_LENGTH:
        return f"a number of {value.bit_length()} bits"  # Python writes no more than 4300 digits
    text = str(value)
    return value if len(text) <= _LENGTH else f"{text[:_LENGTH]}..."


def count(number: int, noun: str) -> str:
    """A count with its noun, such as "1 row" or "2,000 rows"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
