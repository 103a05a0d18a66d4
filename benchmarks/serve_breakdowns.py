"""Faults of what a service runs on: its processes, its disk, its database and the clock."""

from __future__ import annotations

import http.client
import json
import random
import resource
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch
from urllib.parse import quote

import psutil
from serve_events import (
    PROBLEM,
    Fault,
    Sent,
    clients_send,
    database_of,
    event,
    items_of,
    lost_of,
    request,
    sent_again,
)
from servers import PostgreSQL, Service


def killed(service: Service, rounds: int, seconds: float, seed: int = 0) -> Fault:
    """Kills the service (SIGKILL) while clients send events, and starts it again."""
    rng, lost, all_of_them, broken = random.Random(seed), 0, [], 0
    for number in range(rounds):
        with clients_send(service, f"kill-{seed}-{number}") as sent:
            time.sleep(rng.uniform(0.3, 1) * seconds)
            service.kill()
        service.start()
        lost += lost_of(service.store, sent.acknowledged)
        broken += sent.statuses[0]
        all_of_them += sent.acknowledged
        # A client that was not answered sends again; whoever was may do so too.
        duplicates = sent_again(service, [*sent.unanswered, *sent.acknowledged])
        lost += duplicates < len(sent.acknowledged)
        lost += lost_of(service.store, [*sent.unanswered, *sent.acknowledged])
    return Fault(
        f"kill -9 of the service under load, {database_of(service)}",
        f"{rounds} kills",
        len(all_of_them),
        lost,
        "a broken connection; an event sent again with its id is stored once",
    )


def worker_killed(service: Service, rounds: int, seconds: float) -> Fault:
    """Kills one of two workers while clients send events; the other one goes on."""
    lost, answered = 0, 0
    for number in range(rounds):
        with clients_send(service, f"worker-{number}", clients=6) as sent:
            time.sleep(seconds)
            service.workers[number % 2].kill()
            until = time.monotonic() + 120
            while not _all_answer(service):
                assert time.monotonic() < until, "the worker was not started again"
                time.sleep(0.2)
        answered += len(sent.acknowledged)
        sent_again(service, sent.unanswered)
        lost += lost_of(service.store, [*sent.unanswered, *sent.acknowledged])
    return Fault(
        "kill -9 of one of two workers under load",
        f"{rounds} kills",
        answered,
        lost,
        "connections of that worker break; the other one answers, a new one starts",
    )


def _all_answer(service: Service) -> bool:
    """Whether both workers take connections."""
    workers = service.workers
    if len(workers) < 2:
        return False
    return len({_worker_of(service, each) for each in _connections(service, 12)} - {None}) == 2


def _connections(service: Service, number: int) -> list[http.client.HTTPConnection]:
    """Connections that have answered once."""
    found = []
    for _ in range(number):
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
        request(connection, "GET", "/healthz")
        found.append(connection)
    return found


def _worker_of(service: Service, connection: http.client.HTTPConnection) -> int | None:
    """The worker at the other end of a connection."""
    if connection.sock is None:
        return None
    own = connection.sock.getsockname()[1]
    for worker in service.workers:
        try:
            ends = worker.net_connections("tcp")
        except psutil.Error:
            continue
        if any(end.raddr and end.raddr.port == own for end in ends):
            return int(worker.pid)
    return None


def supervisor_killed(service: Service, rounds: int, seconds: float) -> Fault:
    """Kills the process that starts the workers; they end too, and the service can start again."""
    lost, answered = 0, 0
    for number in range(rounds):
        with clients_send(service, f"supervisor-{number}") as sent:
            time.sleep(seconds)
            workers = service.workers
            service.process.kill()
            service.process.wait()
            _, alive = psutil.wait_procs(workers, timeout=30)
            lost += len(alive)
        service.start()
        answered += len(sent.acknowledged)
        sent_again(service, sent.unanswered)
        lost += lost_of(service.store, [*sent.unanswered, *sent.acknowledged])
    return Fault(
        "kill -9 of the first process of two workers",
        f"{rounds} kills",
        answered,
        lost,
        "the workers end after the answers under way; the service can start again",
    )


def two_workers(service: Service, times: int) -> Fault:
    """An event to one worker is in the next list of the other one."""
    by_worker: dict[int | None, http.client.HTTPConnection] = {}
    until = time.monotonic() + 60
    while len(by_worker) < 2:
        assert time.monotonic() < until, "one worker takes all connections"
        for connection in _connections(service, 4):
            by_worker.setdefault(_worker_of(service, connection), connection)
        by_worker.pop(None, None)
    lost, items = 0, items_of(service.run)
    for number in range(times):
        one, other = random.sample(list(by_worker.values()), 2)
        user = f"of two {number}"
        for step, item in enumerate(items[:2]):
            body = {"events": [event(user, f"two-{number}-{step}", item)]}
            status = request(one, "POST", "/events", body)[0]
            path = f"/users/{quote(user)}"
            seen = json.loads(request(other, "GET", f"{path}/history")[2])
            listed = json.loads(request(other, "GET", f"{path}/recommendations?k=100")[2])
            is_right = status == 201 and len(seen) == step + 1 and listed["source"] == "model"
            lost += not is_right or item in [each["item"] for each in listed["items"]]
    return Fault(
        "events to one worker, lists of the other",
        f"{2 * times:,} events",
        2 * times - lost,
        lost,
        "the very next list of any worker reflects the event",
    )


def disk_full(service: Service, rounds: int) -> Fault:
    """Lets no file of the service grow (RLIMIT_FSIZE) for a while; SQLite."""
    pid, lost, answered, refused = service.process.pid, 0, 0, 0
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    for number in range(rounds):
        with clients_send(service, f"full-{number}") as sent:
            time.sleep(0.3)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (20_000, before[1]))
            _wait_for(sent, 503)
            statuses = [
                service.ask("GET", path)[0]
                for path in ("/healthz", "/users/t/recommendations", "/users/full-0-0/history")
            ]
            lost += sum(status != 200 for status in statuses)
            time.sleep(0.3)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
            _wait_for(sent, 201, sent.statuses[201] + 1)
        answered += len(sent.acknowledged)
        refused += sent.statuses[503]
        lost += sum(sent.statuses[status] for status in sent.statuses if status not in (201, 503))
        lost += lost_of(service.store, sent.acknowledged)
        sent_again(service, sent.unanswered)
        lost += lost_of(service.store, sent.unanswered)
    return Fault(
        "no room for the files of SQLite",
        f"{rounds} times",
        answered,
        lost,
        "events: 503 with retry-after; lists go on; events again once there is room",
    )


def disk_really_full(run: Path, folder: Path) -> Fault:
    """Fills a file system of 3 MB that holds the store; mounting it needs root."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], check=True)
    try:
        lost = 0
        with Service(run, f"sqlite:///{folder / 'events.db'}") as service:
            with clients_send(service, "tmpfs") as sent:
                time.sleep(0.2)
                ballast = folder / "ballast"
                with ballast.open("wb", buffering=0) as file:
                    while True:
                        try:
                            file.write(bytes(4096))
                        except OSError:
                            break
                _wait_for(sent, 503)
                lost += service.ask("GET", "/users/t/recommendations")[0] != 200
                ballast.unlink()
                _wait_for(sent, 201, sent.statuses[201] + 1)
            lost += lost_of(service.store, sent.acknowledged)
            sent_again(service, sent.unanswered)
            lost += lost_of(service.store, sent.unanswered)
        lost += sum(sent.statuses[status] for status in sent.statuses if status not in (201, 503))
        return Fault(
            "a full file system (tmpfs)",
            "1 time",
            len(sent.acknowledged),
            lost,
            "as without room for the files",
        )
    finally:
        subprocess.run(["umount", folder], check=True)


def _wait_for(sent: Sent, status: int, times: int = 1) -> None:
    """Waits until a status was answered so many times."""
    until = time.monotonic() + 60
    while sent.statuses[status] < times:
        assert time.monotonic() < until, f"no answer with status {status}: {sent.statuses}"
        time.sleep(0.02)


def database_gone(service: Service, server: PostgreSQL, rounds: int, seconds: float) -> Fault:
    """Stops PostgreSQL at once while clients send events, and starts it again."""
    lost, answered, refused = 0, 0, 0
    for number in range(rounds):
        with clients_send(service, f"gone-{number}") as sent:
            time.sleep(0.5)
            server.stop()
            _wait_for(sent, 503)
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                lost += service.ask("GET", "/healthz")[0] != 200
                status, _, headers = service.ask("GET", "/readyz")
                lost += status != 503 or headers.get("retry-after") != "1"
                status, _, headers = service.ask("GET", "/users/somebody/recommendations")
                lost += status != 503 or headers.get("content-type") != PROBLEM
                time.sleep(0.1)
            server.start()
            _wait_for(sent, 201, sent.statuses[201] + 1)
            service.wait_until_ready()
        lost += sum(sent.statuses[status] for status in sent.statuses if status not in (201, 503))
        answered += len(sent.acknowledged)
        refused += sent.statuses[503]
        lost += lost_of(service.store, sent.acknowledged)
        sent_again(service, sent.unanswered)
        lost += lost_of(service.store, sent.unanswered)
    return Fault(
        f"PostgreSQL gone for {seconds:g} s under load",
        f"{rounds} times",
        answered,
        lost,
        "503 with retry-after, /readyz 503, /healthz 200; recovers without a restart",
    )


def clock_back(run: Path, folder: Path, steps: Sequence[float]) -> Fault:
    """Sets the clock back while events come, in this process.

    Args:
        run: The run to serve.
        folder: For the store.
        steps: Seconds by which the clock goes back, one after the other.
    """
    from fastapi.testclient import TestClient

    from emorec.service.app import Settings, create_app

    real, real_ns, back = time.time, time.time_ns, [0.0]
    asked, lost = 0, 0
    settings = Settings(run, f"sqlite:///{folder / 'clock.db'}", rate="1000/second")
    with (
        patch("time.time", lambda: real() - back[0]),
        patch("time.time_ns", lambda: real_ns() - int(back[0] * 1e9)),
        TestClient(create_app(settings)) as client,
    ):
        items = items_of(run)[:6]
        expected: list[str] = []
        for number, step in enumerate([0, *steps]):
            back[0] += step
            for item in items:
                key = f"{number}-{item}"
                added = client.post("/events", json={"events": [event("clock", key, item)]})
                again = client.post("/events", json={"events": [event("clock", key, item)]})
                lost += added.json()["added"] != 1 or again.json()["duplicates"] != 1
                expected.insert(0, key.partition("-")[2])
                found = client.get("/users/clock/history", params={"limit": 1000}).json()
                lost += [each["item"] for each in found] != expected
                listed = client.get("/users/clock/recommendations")
                lost += listed.status_code != 200 or listed.json()["source"] != "model"
                asked += 4
            client.delete("/users/clock")
            lost += client.get("/users/clock/history").json() != []
            lost += client.get("/users/clock/recommendations").json()["source"] != "popular"
            expected = []
            asked += 3
    return Fault(
        "the clock goes back by an hour to a year",
        f"{len(steps)} steps",
        asked - lost,
        lost,
        "nothing: events keep the order in which they came",
    )
