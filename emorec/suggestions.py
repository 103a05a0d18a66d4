"""What somebody who misspelt a name may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

__all__ = ["suggestion"]

_SHOWN = 20  # names, where none is like the misspelt one


def suggestion(name: str, known: Iterable[Any]) -> str:
    """The known names that are like ``name``; the first ones of all if none is."""
    names = [str(other) for other in known]
    by_lower = {other.lower(): other for other in reversed(names)}
    close = difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.5)
    close = [by_lower[other] for other in close]
    if close:
        return f"did you mean {' or '.join(map(repr, close))}?"
    shown = ", ".join(map(repr, names[:_SHOWN])) + (", ..." if len(names) > _SHOWN else "")
    return f"there are {shown or 'none'}"
