"""The application of a worker, and its end."""

from __future__ import annotations

import os
import signal
import threading

import pytest

pytest.importorskip("fastapi", reason="needs FastAPI, the extra serve")
from emorec.service import app as module  # noqa: E402
from emorec.service.app import Settings, app_of_environment  # noqa: E402


@pytest.fixture
def told(monkeypatch, tmp_path):
    """Settings that a worker is told, of a run that is not there."""
    settings = Settings(
        tmp_path / "run", f"sqlite:///{tmp_path / 'events.db'}", ("a",), ("http://b",),
        "9/second", tmp_path, 7,
    )  # fmt: skip
    for name, text in settings.as_environment().items():
        monkeypatch.setenv(name, text)
    monkeypatch.setattr(module, "_end_with_parent", lambda: None)
    return settings


def test_a_worker_has_the_settings_of_the_environment(told, monkeypatch):
    monkeypatch.setattr(module, "create_app", lambda settings: settings)
    assert app_of_environment() == told


def test_a_worker_that_cannot_start_says_why(told):
    message = "^a worker cannot start, and is started again: .*run: no such run folder"
    with pytest.raises(SystemExit, match=message):
        app_of_environment()


def test_a_worker_ends_after_its_parent(monkeypatch):
    parents, ended = iter([7, 7, 1]), threading.Event()
    killed = []

    def kill(*arguments):
        killed.append(arguments)
        ended.set()

    monkeypatch.setattr(module.os, "getppid", lambda: next(parents))
    monkeypatch.setattr(module.os, "kill", kill)
    monkeypatch.setattr(module, "_PARENT_CHECKED_EVERY", 0)
    module._end_with_parent()
    assert ended.wait(60)
    assert killed == [(os.getpid(), signal.SIGTERM)] and next(parents, None) is None
