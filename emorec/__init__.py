"""EmoRec: recommendations for people who both like and dislike things."""

import importlib
import os
from typing import TYPE_CHECKING, Any

# Threads that wait for each other must sleep, not spin: where other work wants the cores too, two
# spinning threads are over ten times slower than one. OpenMP reads this when PyTorch loads it.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

if TYPE_CHECKING:
    from emorec.data.feedback import Feedback
    from emorec.data.interactions import Interactions
    from emorec.recommender import EmoRec

__all__ = ["EmoRec", "Feedback", "Interactions", "__version__"]

__version__ = "0.1.0"

_HOMES = {
    "EmoRec": "emorec.recommender",
    "Feedback": "emorec.data.feedback",
    "Interactions": "emorec.data.interactions",
}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first asked for: PyTorch alone takes most of a second."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
