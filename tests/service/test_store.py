"""The store of events, in SQLite and in PostgreSQL."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread

import numpy as np
import pytest

pytest.importorskip("sqlalchemy", reason="needs SQLAlchemy, the extra serve")
import tests.benchmarks  # noqa: E402, F401  makes the modules of benchmarks importable
from emorec import EmoRec, cli  # noqa: E402
from emorec.data.files import DataError  # noqa: E402
from emorec.data.stores import forgotten_users, read_store  # noqa: E402
from emorec.experiment import load_data  # noqa: E402
from emorec.service.store import Event, Store, StoreError  # noqa: E402
from tests.cli.commands import TINY, assert_fails, call  # noqa: E402
from tests.small import small_config  # noqa: E402


@contextmanager
def start_postgresql():
    """A PostgreSQL server; skips the test if it cannot be had."""
    pytest.importorskip("psycopg", reason="needs psycopg, for PostgreSQL")
    servers = pytest.importorskip("servers", reason="needs psutil, of the extra dev")
    # Not within pytest's folder, which each pytest closes to other users when it starts.
    with TemporaryDirectory(prefix="emorec-postgresql-") as folder:
        try:
            server = servers.PostgreSQL(Path(folder))
        except LookupError as error:
            pytest.skip(f"needs PostgreSQL: {error}")
        with server:
            yield server


@pytest.fixture(scope="session")
def postgresql():
    """URL of a database of a server that runs for the tests."""
    with start_postgresql() as server:
        yield server.url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'events.db'}"
    url = request.getfixturevalue("postgresql")
    import sqlalchemy as sa

    store = Store(url)
    with store._engine.begin() as connection:
        connection.execute(sa.text("truncate emorec_events, emorec_forgotten"))
    store.close()
    return url


class TestStore:
    def test_events_come_back_in_order_of_time(self, url):
        store = Store(url)
        rows = [Event("u", "b", 3, 20), Event("u", "a", 0, 10), Event("v", "a", 1, 5)]
        one = [Event("u", "c", 2, 20)]
        assert store.add([rows, one]) == [rows, one]
        found = store.history("u")
        assert found.item == ["a", "b", "c"]  # of equal times the first to arrive comes first
        assert found.feedback.tolist() == [0, 3, 2]
        assert found.time_us.tolist() == [10, 20, 20]
        assert not found.is_forgotten
        assert store.history("nobody").item == []
        store.close()

    def test_a_key_is_added_once(self, url):
        store = Store(url)
        first, other = Event("u", "a", 0, 1, "k"), Event("u", "b", 0, 1, "l")
        assert store.add([[first, first]]) == [[first]]
        assert store.add([[first], [first, other]]) == [[], [other]]
        assert len(store.history("u").item) == 2
        store.close()

    def test_the_version_follows_the_users_events(self, url):
        store = Store(url)
        versions = [store.versions(["u"])["u"]]
        store.add([[Event("u", "a", 0, 1)]])
        versions.append(store.versions(["u"])["u"])
        store.add([[Event("v", "a", 0, 1)]])
        assert store.versions(["u"])["u"] == versions[-1] == store.history("u").version
        store.forget("u")
        versions.append(store.versions(["u"])["u"])
        store.add([[Event("u", "a", 0, 1)]])
        versions.append(store.versions(["u"])["u"])
        assert len(set(versions)) == 4
        store.close()

    def test_forgetting(self, url):
        store = Store(url)
        store.add([[Event("u", "a", 0, 1), Event("u", "b", 0, 2), Event("v", "a", 0, 1)]])
        assert store.forget("u") == 2
        assert store.forget("u") == 0
        assert store.history("u").is_forgotten and store.history("u").item == []
        assert store.history("v").item == ["a"]
        store.close()

    def test_writers_at_once_lose_nothing(self, url):
        store = Store(url)

        def write(writer):
            for number in range(20):
                store.add([[Event("u", f"{writer}-{number}", 0, number, f"{writer}-{number}")]])

        threads = [Thread(target=write, args=(writer,)) for writer in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(store.history("u").item)) == 80
        store.close()


class TestAsALog:
    def test_ids_are_numbers_where_all_are(self, url):
        store = Store(url)
        store.add([[Event("7", "a", 0, 10), Event("12", "b", 3, 20), Event("7", "b", 2, 30)]])
        store.close()
        log, _ = read_store(url)
        assert log.users.ids == [7, 12] and log.items.ids == ["a", "b"]
        assert log.feedback.tolist() == [0, 3, 2]
        assert log.time.tolist() == [10, 20, 30] and log.time_unit == "us"

    def test_training_and_learning_on(self, url, tmp_path):
        rng = np.random.default_rng(0)

        def fill(first, last):
            rows = [
                Event(f"u{user}", f"i{rng.integers(12)}", int(rng.integers(4)), 10**9 * step)
                for step in range(first, last)
                for user in range(8)
            ]
            store.add([rows])

        store = Store(url)
        fill(0, 12)
        run = tmp_path / "run"
        options = ("--preset", "emo-sage-thp", "--epochs", 1, "--run-dir", run, *TINY)
        assert call(cli.train, "--dataset", url, *options).exit_code == 0
        fill(12, 20)
        store.close()
        more = ("--continue", run, "--events", url, "--run-dir", tmp_path / "next")
        result = call(cli.train, *more)
        assert result.exit_code == 0, result.output
        assert len(EmoRec.load(tmp_path / "next").split.log) > len(EmoRec.load(run).split.log)

    def test_nothing_to_read(self, url, tmp_path):
        Store(url).close()
        with pytest.raises(DataError, match="the store holds no event yet"):
            read_store(url)
        with pytest.raises(DataError, match="there is no such database"):
            read_store(f"sqlite:///{tmp_path / 'nowhere.db'}")
        (tmp_path / "other.db").write_text("no database")
        with pytest.raises(DataError, match="no store of events can be read there"):
            read_store(f"sqlite:///{tmp_path / 'other.db'}")
        with pytest.raises(DataError, match="the URL of the database cannot be used"):
            load_data(small_config("data.dataset=postgresql://a:b:c:d").data, None)
        message = "there is no such database"
        assert_fails(cli.train, "--dataset", "sqlite:///nowhere.db", message=message)


def test_a_store_of_another_version_is_refused(url):
    import sqlalchemy as sa

    store = Store(url)
    set_version = sa.text("update emorec_version set version_num = :version")
    with store._engine.begin() as connection:
        connection.execute(set_version, {"version": "99"})
    with pytest.raises(StoreError, match="has tables of version 99, and this .* up to 1"):
        Store(url)
    with store._engine.begin() as connection:
        connection.execute(set_version, {"version": "1"})
    store.close()


def test_a_store_of_the_first_services_keeps_its_events(tmp_path):
    """Their version was in a table of their own."""
    import sqlalchemy as sa

    url = f"sqlite:///{tmp_path / 'events.db'}"
    store = Store(url)
    store.add([[Event("u", "i", 0, 1)]])
    with store._engine.begin() as connection:
        connection.execute(sa.text("drop table emorec_version"))
        connection.execute(sa.text("create table emorec_schema (version integer)"))
    store.close()
    store = Store(url)
    assert store.history("u").item == ["i"]
    assert not sa.inspect(store._engine).has_table("emorec_schema")
    store.close()


def _add_one(url: str, number: int) -> None:
    store = Store(url)
    store.add([[Event("u", f"{number}", 0, number)]])
    store.close()


def test_stores_that_are_opened_at_once_create_the_tables_once(url):
    import sqlalchemy as sa

    store = Store(url)
    names = ("emorec_version", "emorec_events", "emorec_forgotten")
    with ProcessPoolExecutor(3, get_context("spawn")) as processes:
        for _ in range(3):
            with store._engine.begin() as connection:
                for name in names:
                    connection.execute(sa.text(f"drop table {name}"))
            list(processes.map(_add_one, [url] * 3, range(3)))
            assert sorted(store.history("u").item) == ["0", "1", "2"]
    store.close()


def test_a_database_that_is_gone_is_named(tmp_path):
    with pytest.raises(StoreError, match="cannot be used"):
        Store(f"sqlite:///{tmp_path / 'no' / 'folder' / 'events.db'}")


def test_what_was_answered_outlives_a_loss_of_power(tmp_path):
    """With ``synchronous=NORMAL``, the default of many, the newest commits would not."""
    store = Store(f"sqlite:///{tmp_path / 'events.db'}")
    with store._engine.connect() as one, store._engine.connect() as other:
        for connection in (one, other):
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL
    store.close()


def test_what_was_answered_outlives_kill_9(tmp_path):
    """A writer prints each key after it was added, until it is killed."""
    url = f"sqlite:///{tmp_path / 'events.db'}"
    program = (
        "import itertools, sys\n"
        "from emorec.service.store import Event, Store\n"
        "store = Store(sys.argv[1])\n"
        "for number in itertools.count():\n"
        "    store.add([[Event('u', 'i', 0, number, str(number))]])\n"
        "    print(number, flush=True)\n"
    )
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", program, url], stdout=subprocess.PIPE, encoding="utf-8"
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
        answered = process.stdout.read().split()
        process.wait()
        store = Store(url)
        kept = set(store.history("u").time_us.tolist())
        assert {int(number) for number in answered} <= kept
        store.forget("u")
        store.close()


def test_without_sqlalchemy_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    message = r'^a database needs SQLAlchemy: pip install "emorec\[serve\]"$'
    for read in (read_store, forgotten_users):
        with pytest.raises(DataError, match=message):
            read("postgresql://emorec:secret@host/events")


def test_the_tables_can_be_taken_away(tmp_path):
    import sqlalchemy as sa
    from alembic import command
    from alembic.config import Config

    url = f"sqlite:///{tmp_path / 'events.db'}"
    store, config = Store(url), Config()
    store.add([[Event("u", "i", 0, 1)]])
    config.set_main_option("script_location", "emorec.service:migrations")
    with store._engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
    assert sa.inspect(store._engine).get_table_names() == ["emorec_version"]
    store.close()
    store = Store(url)  # makes them anew
    assert store.history("u").item == []
    store.close()


@pytest.mark.parametrize("failures", [1, 2])
def test_tables_are_made_by_a_second_try(tmp_path, monkeypatch, failures):
    """As where another process makes them at the same time."""
    import sqlalchemy as sa
    from alembic import command

    upgrade, calls = command.upgrade, []

    def fails(*arguments):
        calls.append(arguments)
        if len(calls) <= failures:
            raise sa.exc.OperationalError("create table", {}, Exception("there is one"))
        upgrade(*arguments)

    monkeypatch.setattr(command, "upgrade", fails)
    if failures > 1:
        with pytest.raises(StoreError, match="cannot be used: there is one"):
            Store(f"sqlite:///{tmp_path / 'events.db'}")
    else:
        store = Store(f"sqlite:///{tmp_path / 'events.db'}")
        assert store.history("u").item == []
        store.close()
    assert len(calls) == 2
