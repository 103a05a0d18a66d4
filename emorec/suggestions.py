"""Suggests the names that a misspelt one may mean."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from itertools import islice
from typing import Any

from emorec.texts import shortened

__all__ = ["suggestion"]

_SHOWN = 20  # names, where none is like the misspelt one
_COMPARED = 1_000  # names: comparing two takes some 20 microseconds
_LENGTH = 100  # characters of a name; comparing takes their square


def suggestion(name: str, known: Iterable[Any]) -> str:
    """The known names that are like ``name``; the first ones of all if none is.

    Of many names, only the first thousand are compared.
    """
    names = [str(other) for other in islice(known, _COMPARED + 1)]
    by_lower = {other.lower(): other for other in reversed(names) if len(other) <= _LENGTH}
    close = []
    if len(name) <= _LENGTH:
        close = difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.5)
    close = [by_lower[other] for other in close]
    if close:
        return f"did you mean {' or '.join(map(repr, close))}?"
    shown = ", ".join(repr(shortened(other)) for other in names[:_SHOWN])
    return f"there are {shown or 'none'}" + (", ..." if len(names) > _SHOWN else "")
