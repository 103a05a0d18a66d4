"""How values are shown to people."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["count", "plain", "shortened", "visible"]

_LENGTH = 100  # characters of a value that messages show
# What moves a terminal's cursor, changes its state or turns the direction of writing, and what
# breaks lines.
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    r"""Control characters written out, such as ESC as ``\u001b``; JSON stays the same JSON."""
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def plain(value: Any) -> Any:
    """A number of NumPy's as Python's, which shows as itself; anything else as it is."""
    is_scalar = hasattr(value, "item") and getattr(value, "shape", None) == ()
    return value.item() if is_scalar else value


def shortened(value: Any) -> Any:
    """A value for a message: as `plain` gives it, or the first characters of its text if long."""
    value = plain(value)
    if isinstance(value, int) and abs(value) >= 10**_LENGTH:
        return f"a number of {value.bit_length()} bits"  # Python writes no more than 4300 digits
    text = str(value)
    return value if len(text) <= _LENGTH else f"{text[:_LENGTH]}..."


def count(number: int, noun: str) -> str:
    """A number of things, such as "1 row" or "2,000 rows"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
