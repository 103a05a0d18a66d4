"""What the service loses when something fails, by the functions of benchmarks/serve_faults.py."""

from __future__ import annotations

import sys
import time
from urllib.parse import quote

import pytest

pytest.importorskip("fastapi", reason="needs FastAPI, the extra serve")
pytest.importorskip("httpx2", reason="needs httpx2, of the extra dev")
psutil = pytest.importorskip("psutil", reason="needs psutil, of the extra dev")
pytest.importorskip("uvicorn", reason="needs uvicorn, the extra serve")
import tests.benchmarks  # noqa: E402, F401  makes the modules of benchmarks importable

# isort: split
import sqlalchemy as sa  # noqa: E402
from fastapi.testclient import TestClient  # noqa: E402
from serve_breakdowns import (  # noqa: E402
    clock_back,
    database_gone,
    disk_full,
    killed,
    two_workers,
    worker_killed,
)
from serve_events import PROBLEM, event, items_of  # noqa: E402
from serve_faults import make_runs  # noqa: E402
from serve_requests import damaged_runs, hostile_requests, many_users, slow_clients  # noqa: E402
from servers import Service  # noqa: E402

from emorec.service.app import Settings, create_app  # noqa: E402
from emorec.service.store import Event, Store  # noqa: E402
from tests.service.test_store import start_postgresql  # noqa: E402

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs that can be served, and one that cannot."""
    return make_runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def service(runs, tmp_path_factory):
    """A service with SQLite, in a process of its own."""
    url = f"sqlite:///{tmp_path_factory.mktemp('store') / 'events.db'}"
    with Service(runs[0], url) as service:
        yield service


def check(fault):
    assert fault.lost == 0, fault
    assert fault.answered > 0, fault


class TestOneProcess:
    def test_hostile_requests(self, service):
        check(hostile_requests(service))

    def test_damaged_runs(self, service, runs):
        check(damaged_runs(service, *runs[1:], flips=4))

    def test_many_users(self, service):
        check(many_users(service, 1_000, 300))

    def test_slow_clients(self, service):
        check(slow_clients(service, 60, 50))

    def test_no_room(self, service):
        check(disk_full(service, 1))

    def test_kill_9(self, service):
        check(killed(service, 1, 0.5))


def test_two_workers(runs, tmp_path):
    with Service(runs[0], f"sqlite:///{tmp_path / 'events.db'}", "--workers", "2") as service:
        check(two_workers(service, 10))
        check(worker_killed(service, 1, 0.5))
        workers = service.workers
        service.process.kill()  # those that it started end too, and free the port
        _, alive = psutil.wait_procs(workers, timeout=30)
        assert not alive


def test_postgresql(runs):
    with start_postgresql() as server, Service(runs[0], server.url) as service:
        check(hostile_requests(service, body_of_10_mb=False))
        check(database_gone(service, server, 1, 1.0))
        check(killed(service, 1, 0.5))


def test_the_clock_goes_back(runs, tmp_path):
    check(clock_back(runs[0], tmp_path, (3_600, 365 * 86_400)))


class TestDefects:
    """One test for each defect that the faults brought to light."""

    @pytest.fixture
    def client(self, runs, tmp_path):
        url = f"sqlite:///{tmp_path / 'events.db'}"
        app = create_app(Settings(runs[0], url))
        with TestClient(app, raise_server_exceptions=False) as client:
            yield client

    def test_nul_is_refused_by_every_store(self, client):
        body = {"events": [event("a\0", "k")]}
        answer = client.post("/events", json=body)
        assert answer.status_code == 422 and "events.0.user" in answer.json()["detail"]
        assert client.get("/users/a%00b/history").status_code == 422
        assert client.delete("/users/a%00b").status_code == 422

    def test_ids_with_slashes_have_lists(self, client, runs):
        item = items_of(runs[0])[0]
        user = "https://a.example/x?y\n/history"
        assert client.post("/events", json={"events": [event(user, "k", item)]})
        path = f"/users/{quote(user, safe='')}"
        assert len(client.get(f"{path}/history").json()) == 1
        assert client.get(f"{path}/recommendations").json()["source"] == "model"
        found = client.get(f"{path}/explanations/{item}")
        assert found.json()["events"][0]["item"] == item
        assert 'route="/users/{user}/history"' in client.get("/metrics").text
        assert client.delete(path).json() == {"deleted": 1}

    def test_times_before_those_of_python_are_refused(self, client, runs):
        early = event("early", "k", items_of(runs[0])[0])
        for at in ("0001-01-01T00:00:00+23:59", "1500-01-01", -10_000_000_000):
            answer = client.post("/events", json={"events": [early | {"time": at}]})
            assert answer.status_code == 422 and "seconds since 1970" in answer.json()["detail"]
        answer = client.post("/events", json={"events": [early | {"time": "1700-01-01"}]})
        assert answer.status_code == 201
        (found,) = client.get("/users/early/history").json()
        assert found["time"] == "1700-01-01T00:00:00Z"

    def test_tiny_aversions_keep_the_probabilities(self, client, runs):
        events = [{"item": items_of(runs[0])[0], "feedback": "explicit_positive"}]
        found = [
            client.post("/recommendations", json={"events": events, "aversion": aversion}).json()
            for aversion in (0, 5e-324, 1e-300, 1e-7)
        ]
        liked = [[item["liked"] for item in each["items"]] for each in found]
        assert liked[0] == liked[1] == liked[2]
        assert liked[0] == pytest.approx(liked[3], abs=1e-3)
        assert all(0 < each < 1 for each in liked[0])

    def test_unexpected_errors_are_problems(self, client, monkeypatch):
        def fail(*_):
            raise ZeroDivisionError

        monkeypatch.setattr(client.app.state.serving.store, "forget", fail)
        answer = client.delete("/users/u")
        assert answer.status_code == 500
        assert answer.headers["content-type"] == PROBLEM
        assert answer.json()["title"] == "Internal Server Error"

    def test_the_choice_of_a_model_may_be_unreadable_for_a_while(self, runs, tmp_path):
        url = f"sqlite:///{tmp_path / 'events.db'}"
        with TestClient(create_app(Settings(runs[0], url, shared=tmp_path))) as client:
            (tmp_path / "model.json").rename(tmp_path / "away.json")
            time.sleep(0.5)
            (tmp_path / "away.json").rename(tmp_path / "model.json")
            client.app.state.serving._choice.choose("two")
            until = time.monotonic() + 30
            while client.get("/model").json()["name"] != "two":
                assert time.monotonic() < until
                time.sleep(0.05)


def test_an_event_that_is_committed_late_changes_the_version():
    """PostgreSQL numbers rows before it commits, so the newest number may be read first."""
    with start_postgresql() as server:
        store = Store(server.url)
        late = store._engine.connect()
        row = {"user": "u", "item": "late"}
        insert = (
            "insert into emorec_events (user_id, item_id, feedback, time_us, received_us) "
            "values (:user, :item, 0, 1, 1)"
        )
        late.execute(sa.text(insert), row)
        store.add([[Event("u", "early", 0, 2)]])
        before = store.versions(["u"])["u"]
        assert store.history("u").item == ["early"]
        late.commit()
        late.close()
        assert store.versions(["u"])["u"] != before
        assert store.history("u").item == ["late", "early"]
        store.close()
