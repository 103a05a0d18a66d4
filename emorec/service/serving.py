"""What the routes share: the model in service, the store, and the lists that are computed."""

from __future__ import annotations

import asyncio
import logging
import tempfile
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from emorec.recommender import EmoRec
from emorec.service.batching import Batcher
from emorec.service.choice import Choice, Chosen
from emorec.service.clock import Clock
from emorec.service.histories import Histories
from emorec.service.metrics import Metrics
from emorec.service.ranker import NOTHING, Ask, Listed, Ranker
from emorec.service.settings import Settings
from emorec.service.store import Event, Store, StoreError

__all__ = ["Asked", "Served", "Serving"]

_LOGGER = logging.getLogger("uvicorn.error")
_MOST_TOGETHER = 64  # lists that are computed together
_MOST_COMMITTED = 256  # requests whose events are one transaction
_FOLLOWED_EVERY = 0.2  # seconds until a worker serves what another one was told to
_MOST_PREPARED, _PREPARED_TOGETHER = 10_000, 8  # users whose lists are computed in advance


@dataclass
class Served:
    """A model in service.

    Attributes:
        name: Of its run folder.
        ranker: Makes its lists.
        histories: Knows users' events.
        lists: Lists by user, version of the user's events and options; of the ranking thread.
        loaded: When it was loaded.
    """

    name: str
    ranker: Ranker
    histories: Histories
    lists: OrderedDict[Any, Listed] = field(default_factory=OrderedDict)
    loaded: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(frozen=True)
class Asked:
    """A list that is asked for.

    Attributes:
        served: The model that makes it.
        ask: What is asked; the history is filled in for a user.
        user: Whose list it is; None: that of a history that belongs to no user.
    """

    served: Served
    ask: Ask
    user: str | None


class Serving:
    """The model in service, the store and the figures of one worker.

    Args:
        settings: How the service runs.

    Attributes:
        served: The model that serves.
        clock: Gives events without a time theirs.
        behind: Why another model should serve and does not; empty if none should.
        writer: Adds events to the store, those of many requests in one transaction.
        lists: Computes lists, those of many requests together.

    Raises:
        FileError: If the run is damaged or not there.
        StoreError: If the store cannot be opened.
        ValueError: If the run cannot be served.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._own = None
        if settings.shared is None:
            self._own = tempfile.TemporaryDirectory(prefix="emorec-")
        shared = settings.shared or Path(self._own.name if self._own else "")
        self._choice = Choice(shared, settings.run.name)
        self.chosen = self._choice.now()
        self.store = Store(settings.store)
        self.metrics = Metrics()
        self.clock = Clock()
        self.behind = ""
        self.served = self._load(self.chosen.name)
        self.metrics.serves(self.served.ranker)
        self.lists: Batcher[Asked, Listed] = Batcher(self._rank, _MOST_TOGETHER, "ranking")
        self.writer: Batcher[list[Event], list[Event]] = Batcher(
            self.store.add, _MOST_COMMITTED, "store"
        )
        self._switching = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Starts what runs beside the answers."""
        self._tasks = [
            asyncio.create_task(self._follow()),
            asyncio.create_task(self._prepare(self.served)),
        ]

    async def stop(self) -> None:
        """Ends what `start` began, after the answers under way, and closes the store."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.close()

    def close(self) -> None:
        """Closes the store and the threads."""
        self.lists.close()
        self.writer.close()
        self.store.close()
        self.metrics.close()
        if self._own is not None:
            self._own.cleanup()

    async def switch(self, name: str) -> None:
        """Serves another run, and tells the other workers to.

        Requests that are under way keep the model that they began with.

        Raises:
            FileError: If it is damaged or not there.
            OSError: If it cannot be read.
            ValueError: If it cannot be served.
        """
        async with self._switching:
            served = await asyncio.to_thread(self._load, name)
            self._serve(served, await asyncio.to_thread(self._choice.choose, name))

    def kinds(self, behaviours: Sequence[dict[str, Any]]) -> list[int | None]:
        """The kind of feedback of each behaviour, by the run's rules; None where none matches.

        Raises:
            ValueError: If a column that the rules need is missing, or has a value that they cannot
                read.
        """
        recommender = self.served.ranker.recommender
        data = recommender.config.data
        frame = pd.DataFrame(list(behaviours))
        frame[data.user_column] = [str(place) for place in range(len(behaviours))]
        frame[data.item_column] = "item"
        if data.time_column:
            frame[data.time_column] = 1_000_000_000
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # dropped rows are counted in the answer
            log = recommender.read_events(frame)
        found: list[int | None] = [None] * len(behaviours)
        if log is not None:
            for user, kind in zip(log.users.lookup(log.user), log.feedback, strict=True):
                found[int(user)] = int(kind)
        return found

    def _load(self, name: str) -> Served:
        ranker = Ranker(EmoRec.load(self.settings.run.parent / name, backend="torch"))
        return Served(name, ranker, Histories(ranker, self.store, self.settings.most_users))

    def _serve(self, served: Served, chosen: Chosen) -> None:
        self.served, self.chosen, self.behind = served, chosen, ""
        self.metrics.serves(served.ranker)
        self._tasks.append(asyncio.create_task(self._prepare(served)))

    async def _follow(self) -> None:
        """Serves what another worker was told to serve."""
        while True:
            await asyncio.sleep(_FOLLOWED_EVERY)
            try:
                if (await asyncio.to_thread(self._choice.now)).number != self.chosen.number:
                    await self._catch_up()
            except OSError as error:  # such as too many open files; the next time may do
                _LOGGER.error("which model is to serve cannot be read: %s", error)

    async def _catch_up(self) -> None:
        async with self._switching:
            chosen = await asyncio.to_thread(self._choice.now)
            if chosen.number == self.chosen.number:
                return
            try:
                self._serve(await asyncio.to_thread(self._load, chosen.name), chosen)
            except (OSError, ValueError) as error:
                self.chosen = chosen  # it is not tried again
                self.behind = f"{self.served.name} serves, but should not: {error}"
                _LOGGER.error(self.behind)

    async def _prepare(self, served: Served) -> None:
        """Computes the lists of the log's most recent users, between those that are asked for."""
        users = served.ranker.most_recent_users(min(_MOST_PREPARED, self.settings.most_users))
        loop = asyncio.get_running_loop()
        for start in range(0, len(users), _PREPARED_TOGETHER):
            if self.served is not served:
                return
            some = users[start : start + _PREPARED_TOGETHER]
            asked = [Asked(served, Ask(NOTHING), user) for user in some]
            try:
                await loop.run_in_executor(self.lists.thread, self._rank, asked)
            except StoreError:  # whoever asks for a list is told
                return

    def _rank(self, asked: Sequence[Asked]) -> list[Listed]:
        """Lists that are asked for at once; those whose history is not new are remembered.

        They are of several models if one was switched to just now: requests that came before keep
        theirs.
        """
        found: dict[int, Listed] = {}
        for served in {id(each.served): each.served for each in asked}.values():
            own = [place for place, each in enumerate(asked) if each.served is served]
            users = [user for place in own if (user := asked[place].user) is not None]
            histories = served.histories.of_many(users)
            new: dict[int, Ask] = {}
            keys: dict[int, Any] = {}
            for place in own:
                ask, user = asked[place].ask, asked[place].user
                if user is not None:
                    version, history = histories[user]
                    if served.ranker.is_timeless:
                        keys[place] = user, version, ask.options
                    if (known := served.lists.get(keys.get(place))) is not None:
                        served.lists.move_to_end(keys[place])
                        found[place] = known
                        continue
                    ask = replace(ask, history=history)
                new[place] = ask
            for place, listed in zip(new, served.ranker.rank(list(new.values())), strict=True):
                found[place] = listed
                if place in keys:
                    served.lists[keys[place]] = listed
            while len(served.lists) > self.settings.most_users:
                served.lists.popitem(last=False)
        return [found[place] for place in range(len(asked))]
