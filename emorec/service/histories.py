"""Histories of users: what a run's log and the store know of each."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock

import numpy as np

from emorec.service.ranker import History, Ranker
from emorec.service.store import Store, Version

__all__ = ["Histories"]


class Histories:
    """The events of users, the newest included.

    Each answer asks the store for the version of the user's events, so that several processes may
    share it; events are read only if the version is new.

    Args:
        ranker: Knows the run's log and the items of the model.
        store: Holds newer events.
        most: Users whose events are kept in memory.
    """

    def __init__(self, ranker: Ranker, store: Store, most: int = 100_000) -> None:
        self._ranker, self._store, self._most = ranker, store, most
        self._kept: OrderedDict[str, tuple[Version, History]] = OrderedDict()
        self._lock = Lock()

    def of(self, user: str) -> History:
        """All events of a user with items that the model knows."""
        return self.of_many([user])[user][1]

    def of_many(self, users: Sequence[str]) -> dict[str, tuple[Version, History]]:
        """The version and the events of each user; one question to the store if none is new."""
        found = {}
        for user, version in self._store.versions(users).items():
            with self._lock:
                kept = self._kept.get(user)
                if kept is not None:
                    self._kept.move_to_end(user)
            found[user] = kept if kept is not None and kept[0] == version else self._read(user)
        return found

    def _read(self, user: str) -> tuple[Version, History]:
        stored = self._store.history(user)
        logged = self._ranker.history_in_log(user)
        if stored.is_forgotten:
            logged = History.of([], [], [])
        item = self._ranker.index_of(stored.item)
        known = item >= 0
        history = History.of(
            np.concatenate([logged.item, item[known]]),
            np.concatenate([logged.feedback, stored.feedback[known]]),
            np.concatenate([logged.time_us, stored.time_us[known]]),
        )
        with self._lock:
            self._kept[user] = stored.version, history
            self._kept.move_to_end(user)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return stored.version, history
