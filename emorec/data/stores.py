"""Stores of events as logs: what the service has taken, read from its database."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from emorec.data.feedback import Feedback
from emorec.data.files import DataError
from emorec.data.interactions import Interactions
from emorec.data.readers import ReadReport, read_interactions
from emorec.storage.files import one_line

__all__ = ["FORGOTTEN", "TABLE", "engine_of", "forgotten_users", "is_store", "read_store"]

TABLE, FORGOTTEN = "emorec_events", "emorec_forgotten"
_GONE = {  # a PostgreSQL server whose machine is gone is an error after so many seconds
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,  # milliseconds
}
_PREFIXES = ("sqlite:", "postgresql:", "postgresql+")


def is_store(source: Any) -> bool:
    """Whether a text is the URL of a database, such as ``sqlite:///events.db``."""
    return isinstance(source, str) and source.startswith(_PREFIXES)


def engine_of(url: str) -> Any:
    """SQLAlchemy's engine of a URL; that of PostgreSQL takes psycopg.

    Raises:
        DataError: If the URL cannot be understood, or its driver is not installed.
    """
    try:
        import sqlalchemy as sa
    except ImportError as error:
        raise DataError('a database needs SQLAlchemy: pip install "emorec[serve]"') from error
    try:
        parsed = sa.make_url(url)
        if parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        given: dict[str, Any] = {}
        if parsed.drivername == "postgresql+psycopg":
            given = {name: value for name, value in _GONE.items() if name not in parsed.query}
        return sa.create_engine(parsed, pool_pre_ping=True, connect_args=given)
    except (sa.exc.ArgumentError, ImportError, ValueError) as error:
        raise DataError(
            f"the URL of the database cannot be used ({error}); give one such as "
            "sqlite:///events.db or postgresql://user@host/name"
        ) from error


def read_store(url: str) -> tuple[Interactions, ReadReport]:
    """Reads all events of a store, in the order of their arrival.

    Args:
        url: Of the database, as SQLAlchemy has it.

    Returns:
        The log, its times in microseconds; ids are numbers where all are. And what was read.

    Raises:
        DataError: If the database cannot be read, holds no store or no event.
    """
    rows = _rows(url, f"select user_id, item_id, feedback, time_us from {TABLE} order by seq")
    if not rows:
        raise DataError(f"{engine_of(url).url.render_as_string()}: the store holds no event yet")
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "feedback", "time_us"])
    names = {int(kind): kind.label for kind in Feedback}
    frame = frame.assign(
        user_id=_as_given(frame["user_id"]),
        item_id=_as_given(frame["item_id"]),
        feedback=frame["feedback"].map(names),
    )
    return read_interactions(frame, time="time_us", feedback="feedback", time_unit="us")


def forgotten_users(url: str) -> list[str]:
    """The users who asked to be forgotten: what a run's log has of them is not to be used.

    Raises:
        DataError: If the database cannot be read, or holds no store.
    """
    return [row[0] for row in _rows(url, f"select user_id from {FORGOTTEN} order by user_id")]


def _rows(url: str, query: str) -> list[Any]:
    engine = engine_of(url)
    import sqlalchemy as sa

    shown = engine.url.render_as_string(hide_password=True)
    if engine.dialect.name == "sqlite" and not _exists(engine.url.database):
        raise DataError(f"{shown}: there is no such database")
    try:
        with engine.connect() as connection:
            return list(connection.execute(sa.text(query)).all())
    except sa.exc.SQLAlchemyError as error:
        cause = one_line(getattr(error, "orig", None) or error)
        raise DataError(f"{shown}: no store of events can be read there ({cause})") from error
    finally:
        engine.dispose()


def _exists(database: str | None) -> bool:
    return database in (None, "", ":memory:") or Path(str(database)).is_file()


def _as_given(ids: pd.Series) -> pd.Series:
    """Ids as numbers if all of them are whole numbers written plainly, else as text."""
    plainly = ids.str.fullmatch(r"0|-?[1-9][0-9]{0,17}")
    return ids.astype("int64") if bool(plainly.all()) else ids
