"""Figures of the service."""

from __future__ import annotations

import os

import pytest

pytest.importorskip("fastapi", reason="needs FastAPI, the extra serve")
values = pytest.importorskip("prometheus_client.values", reason="needs it, of the extra serve")
from emorec.data.feedback import Feedback  # noqa: E402
from emorec.service import metrics  # noqa: E402
from emorec.service.metrics import SHARED_FOLDER, Metrics  # noqa: E402
from emorec.service.store import Event  # noqa: E402


def value(figures, name):
    """A figure; None if there is no such one."""
    rows = (line.rsplit(" ", 1) for line in figures.text().decode().splitlines())
    return next((float(number) for key, number in rows if key == name), None)


def test_the_last_lists_of_some_users_are_remembered(monkeypatch):
    monkeypatch.setattr(metrics, "_MOST_SHOWN", 2)
    figures = Metrics()
    for user in ("a", "b", "a", "c"):
        figures.showed(user, ["x"])
    for user in ("a", "b", "c"):
        figures.took(Event(user, "x", Feedback.EXPLICIT_NEGATIVE, 0))
    assert value(figures, 'emorec_shown_judged_total{kind="explicit_negative"}') == 2  # not b's
    assert value(figures, 'emorec_events_total{kind="explicit_negative"}') == 3


def test_figures_of_workers_are_added_up(monkeypatch, tmp_path):
    monkeypatch.setenv(SHARED_FOLDER, str(tmp_path))
    workers = []
    for number in (os.getpid(), 1):
        of_worker = values.MultiProcessValue(lambda number=number: number)
        monkeypatch.setattr(values, "ValueClass", of_worker)
        workers.append(Metrics())
    for worker in workers:
        worker.took(Event("u", "x", Feedback.EXPLICIT_POSITIVE, 0))
    workers[1].took(Event("u", "x", Feedback.EXPLICIT_POSITIVE, 0))
    for worker in workers:
        assert value(worker, 'emorec_events_total{kind="explicit_positive"}') == 3
    live = tmp_path / f"gauge_livemax_{os.getpid()}.db"
    assert live.exists()
    workers[0].close()
    assert not live.exists()  # what is live ends with the worker
    assert value(workers[1], 'emorec_events_total{kind="explicit_positive"}') == 3
