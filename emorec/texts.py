"""How values are shown to people."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["count", "plain", "visible"]

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


def count(number: int, noun: str) -> str:
    """A number of things, such as "1 row" or "2,000 rows"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
