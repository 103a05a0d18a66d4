"""The store of events: a database that keeps what users did, and whom to forget.

SQLite by default, in WAL mode and with every commit on disk before it is answered; PostgreSQL by
its URL. All SQL is SQLAlchemy's, so that both are one code.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy.exc import SQLAlchemyError

from emorec.data import stores
from emorec.data.stores import TABLE, engine_of
from emorec.storage.files import one_line

__all__ = ["Event", "Store", "StoreError", "StoredHistory", "Version"]

EVENTS = sa.table(
    TABLE,
    *map(sa.column, ("seq", "key", "user_id", "item_id", "feedback", "time_us", "received_us")),
)
FORGOTTEN = sa.table(stores.FORGOTTEN, sa.column("user_id"), sa.column("received_us"))
VERSION_TABLE = "emorec_version"
_ONE_AT_A_TIME = Lock()  # alembic works in one thread
_BUSY_MS = 10_000  # that a writer waits for another one, of SQLite


Version = tuple[int, int, int]
"""Changes when a user's events do: the newest's number, how many there are, when the user was
forgotten. The number alone would not do, as PostgreSQL gives numbers before it commits."""


class StoreError(RuntimeError):
    """The database cannot be used now."""


@dataclass(frozen=True)
class Event:
    """What a user did.

    Attributes:
        user: The user's id, as text.
        item: The item's id, as text.
        feedback: A kind of `Feedback`.
        time_us: When, in microseconds since 1970 in UTC.
        key: The caller's own id of the event; an event whose key is there is not added again.
    """

    user: str
    item: str
    feedback: int
    time_us: int
    key: str | None = None


@dataclass(frozen=True)
class StoredHistory:
    """A user's events in the store, oldest first; equal times in the order of arrival.

    Attributes:
        item: Ids of the items.
        feedback: Kinds of feedback, int8 ``[N]``.
        time_us: Times, int64 ``[N]``.
        version: Changes when the user's events do.
        is_forgotten: Whether the user asked to be forgotten: events of a run's log are not the
            user's any more.
    """

    item: list[str]
    feedback: np.ndarray
    time_us: np.ndarray
    version: Version
    is_forgotten: bool


class Store:
    """Events in a database.

    Args:
        url: Of SQLAlchemy, such as ``sqlite:///events.db`` or
            ``postgresql+psycopg://user@host/name``.

    Raises:
        StoreError: If the database cannot be opened, or another version of EmoRec made its tables.
        DataError: If the URL cannot be understood, or its driver is not installed.
    """

    def __init__(self, url: str) -> None:
        self._engine = engine_of(url)
        self.url = self._engine.url.render_as_string(hide_password=True)
        if self._engine.dialect.name == "sqlite":
            sa.event.listen(self._engine, "connect", _durable)
        with self._errors():
            self._migrate()

    def add(self, groups: Sequence[Sequence[Event]]) -> list[list[Event]]:
        """Adds groups of events in one transaction, which is on disk when this returns.

        Returns:
            The events of each group that were added: those whose key was there already are not.
        """
        now = _now()
        insert = self._insert(EVENTS).on_conflict_do_nothing(index_elements=["key"])
        insert = insert.returning(EVENTS.c.key)
        added = []
        with self._errors(), self._engine.begin() as connection:
            for events in groups:
                rows: list[dict[str, Any]] = [
                    {
                        "key": event.key,
                        "user_id": event.user,
                        "item_id": event.item,
                        "feedback": event.feedback,
                        "time_us": event.time_us,
                        "received_us": now,
                    }
                    for event in events
                ]
                new = set(connection.execute(insert, rows).scalars()) if rows else set()
                own = []
                for event in events:
                    if event.key is None or event.key in new:
                        own.append(event)
                        new.discard(event.key)  # of events with one key the first is added
                added.append(own)
        return added

    def versions(self, users: Sequence[str]) -> dict[str, Version]:
        """The version of each user's events; cheap."""
        found = {user: (0, 0, 0) for user in users}
        newest = sa.select(EVENTS.c.user_id, sa.func.max(EVENTS.c.seq), sa.func.count())
        newest = newest.where(EVENTS.c.user_id.in_(found)).group_by(EVENTS.c.user_id)
        forgotten = sa.select(FORGOTTEN.c.user_id, FORGOTTEN.c.received_us)
        forgotten = forgotten.where(FORGOTTEN.c.user_id.in_(found))
        with self._errors(), self._engine.connect() as connection:
            for user, seq, count in connection.execute(newest):
                found[user] = seq, count, 0
            for user, since in connection.execute(forgotten):
                found[user] = *found[user][:2], since
        return found

    def history(self, user: str) -> StoredHistory:
        """All events of a user."""
        query = (
            sa.select(EVENTS.c.item_id, EVENTS.c.feedback, EVENTS.c.time_us, EVENTS.c.seq)
            .where(EVENTS.c.user_id == user)
            .order_by(EVENTS.c.time_us, EVENTS.c.seq)
        )
        forgotten = sa.select(FORGOTTEN.c.received_us).where(FORGOTTEN.c.user_id == user)
        with self._errors(), self._engine.connect() as connection:
            rows = connection.execute(query).all()
            since = connection.execute(forgotten).scalar_one_or_none() or 0
        return StoredHistory(
            [row[0] for row in rows],
            np.array([row[1] for row in rows], dtype=np.int8),
            np.array([row[2] for row in rows], dtype=np.int64),
            (max((row[3] for row in rows), default=0), len(rows), since),
            since > 0,
        )

    def forget(self, user: str) -> int:
        """Deletes a user's events, and notes that those of a run's log are not to be used.

        Returns:
            How many events were deleted.
        """
        note = self._insert(FORGOTTEN).values(user_id=user, received_us=_now())
        note = note.on_conflict_do_update(
            index_elements=["user_id"], set_={"received_us": note.excluded.received_us}
        )
        with self._errors(), self._engine.begin() as connection:
            deleted = connection.execute(EVENTS.delete().where(EVENTS.c.user_id == user)).rowcount
            connection.execute(note)
        return int(deleted)

    def check(self) -> None:
        """Asks the database for nothing.

        Raises:
            StoreError: If it does not answer.
        """
        with self._errors(), self._engine.connect() as connection:
            connection.execute(sa.select(1))

    def close(self) -> None:
        """Closes all connections."""
        self._engine.dispose()

    def _migrate(self) -> None:
        """Gives the tables the form that this version of EmoRec knows."""
        config = Config()
        config.set_main_option("script_location", "emorec.service:migrations")
        newest = ScriptDirectory.from_config(config).get_current_head()
        for is_last in (False, True):
            version = self._version()
            if version == newest:
                return
            try:
                with _ONE_AT_A_TIME, self._engine.begin() as connection:
                    if self._engine.dialect.name == "sqlite":
                        connection.exec_driver_sql("BEGIN IMMEDIATE")  # one process alone
                    config.attributes["connection"] = connection
                    command.upgrade(config, "head")
            except CommandError as error:
                raise StoreError(
                    f"{self.url} has tables of version {version}, and this "
                    f"version of EmoRec knows those up to {newest}"
                ) from error
            except SQLAlchemyError:
                if is_last:  # else another process may have done it in between
                    raise

    def _version(self) -> str | None:
        with self._engine.connect() as connection:
            context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
            return context.get_current_revision()

    def _insert(self, table: sa.TableClause) -> Any:
        from sqlalchemy.dialects import postgresql, sqlite

        dialect = sqlite if self._engine.dialect.name == "sqlite" else postgresql
        return dialect.insert(table)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            cause = one_line(getattr(error, "orig", None) or error)
            raise StoreError(f"the store {self.url} cannot be used: {cause}") from error


def _durable(connection: Any, _: Any) -> None:
    """Readers beside a writer, and a commit that is on disk when it returns."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute(f"PRAGMA busy_timeout={_BUSY_MS}")
    cursor.close()


def _now() -> int:
    return time.time_ns() // 1000
