"""The service's own time, which does not go back when the machine's clock is set."""

from __future__ import annotations

import time

__all__ = ["Clock"]


class Clock:
    """Times for events that come without one: a later event never has an earlier time.

    While the machine's clock is behind what it showed before, the last time is given again. Events
    of equal times keep the order in which they came.
    """

    def __init__(self) -> None:
        self._last_us = 0

    def now_us(self) -> int:
        """Microseconds since 1970."""
        self._last_us = max(self._last_us, time.time_ns() // 1000)
        return self._last_us
