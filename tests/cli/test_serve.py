"""emorec serve; what it serves is tested in tests/service."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs FastAPI, the extra serve")
uvicorn = pytest.importorskip("uvicorn", reason="needs uvicorn, the extra serve")

from emorec import cli  # noqa: E402
from emorec.service.metrics import SHARED_FOLDER  # noqa: E402
from emorec.service.settings import Settings  # noqa: E402
from tests.cli.commands import assert_fails, call  # noqa: E402


@pytest.fixture
def calls(monkeypatch):
    """What uvicorn is asked to run, and the settings that its workers would find."""
    for name in (SHARED_FOLDER, "EMOREC_SERVICE", "EMOREC_API_KEYS"):
        monkeypatch.setenv(name, "")  # as it is when the test ends
        monkeypatch.delenv(name)
    found = []

    def run(app, **options):
        told = Settings.of_environment() if options.get("workers") else None
        found.append((app, options, told, os.environ.get(SHARED_FOLDER)))

    monkeypatch.setattr(uvicorn, "run", run)
    return found


def test_one_worker_is_this_process(calls, trained):
    result = call(cli.main, "serve", trained[0], "--port", 8001, "--allow-origin", "http://a")
    assert result.exit_code == 0, result.output
    store = f"sqlite:///{trained[0].parent / 'events.db'}"
    where = f"Serving {trained[0]} at http://127.0.0.1:8001; events are kept in {store}\n"
    assert result.stdout == where
    [(app, options, _, shared)] = calls
    app.state.serving.close()
    assert app.state.serving.settings.origins == ("http://a",)
    assert (options["host"], options["port"]) == ("127.0.0.1", 8001)
    assert "workers" not in options and shared is None


def test_several_workers_are_told_the_settings(calls, trained, monkeypatch):
    monkeypatch.setenv("EMOREC_API_KEYS", "a,b")
    options = ("--workers", 2, "--host", "0.0.0.0", "--rate", "9/second")
    result = call(cli.main, "serve", trained[0], *options)
    assert result.exit_code == 0, result.output
    [(app, options, told, shared)] = calls
    assert (app, options["factory"], options["workers"]) == (
        "emorec.service.app:app_of_environment", True, 2,
    )  # fmt: skip
    store = f"sqlite:///{trained[0].resolve().parent / 'events.db'}"
    assert told == Settings(trained[0].resolve(), store, ("a", "b"), (), "9/second", Path(shared))


def test_the_password_of_the_store_is_not_shown():
    settings = Settings(Path("run"), "postgresql://emorec:secret@host/events")
    assert settings.shown_store == "postgresql://emorec:***@host/events"


def test_others_need_a_key(calls, trained):
    message = "--host 0.0.0.0 is open to others, so requests must bring a key"
    assert_fails(cli.main, "serve", trained[0], "--host", "0.0.0.0", message=message, code=(2,))
    assert not calls


def test_without_the_extra(trained, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    message = r'the service needs: pip install "emorec\[serve\]"'
    assert_fails(cli.main, "serve", trained[0], message=message)
