"""What the service loses when something fails: nothing that it has answered.

    python benchmarks/serve_faults.py --output benchmarks/results/serve-faults.md

Each function brings about one fault, many times, and counts what was injected, answered and lost.
tests/service/test_faults.py calls the same functions with small numbers.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import random
import resource
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.parse import quote

import click
import numpy as np
import psutil
import sqlalchemy as sa
from machine import machine
from serve_bench import answer, get, post
from servers import PostgreSQL, Service

from emorec import EmoRec
from emorec.data.stores import engine_of
from emorec.data.synthetic import generate
from emorec.run_folder import load_split

KINDS = ("explicit_positive", "implicit_negative", "explicit_negative")
PROBLEM = "application/problem+json"


@dataclass(frozen=True)
class Fault:
    """What came of a fault.

    Attributes:
        name: What happened.
        injected: How often, with a noun.
        answered: Requests that were answered as they should be.
        lost: What was answered and is gone, doubled or wrong, or was not answered at all.
        seen: What a client sees.
    """

    name: str
    injected: str
    answered: int
    lost: int
    seen: str


@dataclass
class Sent:
    """What clients sent, and what the service answered.

    Attributes:
        acknowledged: Events of answers with status 201.
        unanswered: Events of requests that got no answer or were refused.
        statuses: How often each status was answered; 0: the connection broke.
    """

    acknowledged: list[dict[str, Any]] = field(default_factory=list)
    unanswered: list[dict[str, Any]] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)


@contextmanager
def clients_send(service: Service, name: str, clients: int = 4) -> Iterator[Sent]:
    """Some clients send events with ids, one request after the other, until the context ends."""
    sent, ended, lock = Sent(), threading.Event(), threading.Lock()

    def send(client: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
        number = 0
        while not ended.is_set():
            events = [event(f"{name}-{client}", f"{name}-{client}-{number + n}") for n in (0, 1)]
            number += 2
            status = request(connection, "POST", "/events", {"events": events})[0]
            with lock:
                sent.statuses[status] += 1
                (sent.acknowledged if status == 201 else sent.unanswered).extend(events)
            if status != 201:
                time.sleep(0.05)
        connection.close()

    threads = [threading.Thread(target=send, args=(client,)) for client in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield sent
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def event(user: str, key: str, item: str = "some item") -> dict[str, Any]:
    """An event with an id."""
    return {"user": user, "item": item, "feedback": random.choice(KINDS), "id": key}


def items_of(run: Path) -> list[str]:
    """Ids of the items of a run."""
    return [str(each) for each in load_split(run).train.items.ids]


def request(
    connection: http.client.HTTPConnection, method: str, path: str, body: object = None
) -> tuple[int, str, bytes]:
    """Status, media type and body of an answer; status 0 if there was none."""
    content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    try:
        connection.request(method, path, content, {"content-type": "application/json"})
        got = connection.getresponse()
        return got.status, got.getheader("content-type") or "", got.read()
    except (OSError, http.client.HTTPException):
        connection.close()
        return 0, "", b""


def lost_of(store: str, events: Sequence[dict[str, Any]]) -> int:
    """How many events the store does not hold, or holds more than once."""
    engine = engine_of(store)
    with engine.connect() as connection:
        query = sa.text("select key, user_id, item_id from emorec_events where key is not null")
        held = Counter(tuple(row) for row in connection.execute(query))
    engine.dispose()
    return sum(held[each["id"], each["user"], each["item"]] != 1 for each in events)


def sent_again(service: Service, events: Sequence[dict[str, Any]]) -> int:
    """Sends events again with their ids; how many the service says are duplicates."""
    duplicates = 0
    for start in range(0, len(events), 500):
        status, body, _ = service.ask("POST", "/events", {"events": events[start : start + 500]})
        assert status == 201, body
        duplicates += body["duplicates"]
    return duplicates


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
        f"kill -9 of the service under load, {_database(service)}",
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


def damaged_runs(service: Service, good: Path, other: Path, flips: int, seed: int = 0) -> Fault:
    """Offers damaged runs to ``POST /model``.

    Args:
        service: Serves another run of the same folder.
        good: A run that could be served; copied.
        other: A run of a preset that cannot be served.
        flips: Flipped bits per file.
        seed: Of the places of the flipped bits.
    """
    rng = random.Random(seed)
    folder = service.run.parent
    serving = service.ask("GET", "/model")[1]["name"]
    tried, lost = Counter[int](), 0

    def offer(name: str, expected: tuple[int, ...] = (409,)) -> None:
        nonlocal lost
        status, body, headers = service.ask("POST", "/model", {"name": name})
        is_refused = status in expected and headers.get("content-type") == PROBLEM
        lost += not is_refused or not body["detail"].endswith(f"{serving} still serves")
        tried[status] += 1

    def offer_with(name: str, change: Any, *expected: int) -> None:
        copy = folder / "offered"
        shutil.copytree(good, copy, symlinks=True)
        try:
            change(copy / name)
            offer("offered", expected or (409,))
        finally:
            shutil.rmtree(copy)

    for path in sorted(path for path in good.iterdir() if path.name != ".lock"):
        content = path.read_bytes()
        shorter = {0, 1, len(content) // 2, len(content) - 2}  # the last byte may be a line break
        for short in (content[:length] for length in sorted(shorter - {len(content)})):
            offer_with(path.name, lambda to, short=short: to.write_bytes(short))
        for _ in range(flips if content else 0):
            place, bit = rng.randrange(len(content)), 1 << rng.randrange(8)
            flipped = bytearray(content)
            flipped[place] ^= bit
            offer_with(path.name, lambda to, flipped=flipped: to.write_bytes(flipped))
        for change in (_deleted, _longer, _dangling, _looping, _a_folder, _a_pipe):
            # Without a manifest nothing but the files' own digests can be checked.
            is_optional = path.name == "manifest.json" and change is _deleted
            if not is_optional:
                offer_with(path.name, change)
    long = "x" * 300
    for name in (long, "nothing", other.name):
        offer(name)
    lost += service.ask("GET", "/model")[1]["name"] != serving
    lost += service.ask("GET", "/users/somebody/recommendations")[1]["model"] != serving
    total = sum(tried.values())
    return Fault(
        "damaged runs offered to POST /model",
        f"{total:,} runs",
        tried[409],
        lost,
        "409 with what is wrong; the old model serves on",
    )


def _deleted(path: Path) -> None:
    path.unlink()


def _longer(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"\0")


def _dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def _looping(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def _a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


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


TEXTS = (
    "\0", "a\0b", "\ud800", "a\udfffb", "'; drop table emorec_events; --", '"; --', "<script>",
    "x" * 512, "x" * 513, "\U0001f600" * 512, "../../etc/passwd", "..", ".", "%2e%2e", "a/b", "/",
    "\u202e", "\n", "\r\nx: y", " ", "", "\ufeff", "\uffff", "-1", "1e5", "null", "{}", "$1", "%s",
)  # fmt: skip
NUMBERS = ("0", "-1", "1001", "1e3", "1.5", "nan", "inf", "-inf", "1e999", "9" * 30, "9" * 5000, "")
BODIES = (
    b"", b"{", b"[]", b"null", b'""', b"NaN", b"1e999", b"[" * 100_000, b'{"events":' * 50_000,
    b"[" * 500 + b"]" * 500, b'{"events":' * 900 + b"1" + b"}" * 900, b"\xff\xfe", b'"' * 999_999,
    b'{"events": [{"user": "\xff"}]}', b"x" * 1_000_001, b"\xef\xbb\xbf{}", "{}".encode("utf-16"),
    b'{"events": [' + b"{}," * 100_000 + b"{}]}",
)  # fmt: skip
TIMES = (
    float("nan"), float("inf"), 1e308, -1e308, -1, 2**53, 10**400, True, [], {}, "yesterday",
    "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2020-02-30", "1e999", "\0",
)  # fmt: skip


def hostile_requests(service: Service, body_of_10_mb: bool = True) -> Fault:
    """Sends what no client should send; right answers and 4xx are expected, never 5xx."""
    known = items_of(service.run)[0]
    user = {"user": "u", "item": known, "feedback": "explicit_positive"}
    bodies: list[bytes] = list(BODIES)
    for text in TEXTS:
        fields = [{name: text} for name in ("user", "item", "id", "feedback", "time", "extra")]
        bodies += [_json({"events": [user | each]}) for each in fields]
        behaviours: list[dict[str, Any]] = [{"rating": text}, {text: 1, "rating": 5}, {text: text}]
        behaviours += [{"rating": value} for value in TIMES]
        for behaviour in behaviours:
            bodies += [_json({"events": [{"user": "u", "item": "i", "behaviour": behaviour}]})]
        bodies += [_json({text: text}), _json({"name": text}), _json({"candidates": [text]})]
        bodies += [_json({"exclude": [text]}), _json({"events": text})]
    bodies += [_json({"events": [user | {"time": value}]}) for value in TIMES]
    bodies += [
        _json({"events": [{"user": value, "item": value, "feedback": value}]}) for value in TIMES
    ]
    for number in NUMBERS[:-1]:
        for name in ("k", "aversion", "allow_seen"):
            bodies.append(b'{"%s": %s}' % (name.encode(), number.encode()))
    bodies += [b'{"aversion": NaN}', b'{"aversion": Infinity}', b'{"aversion": 1e-300, "k": 3}']
    if body_of_10_mb:
        bodies.append(b"x" * 10_000_000)
    asks: list[tuple[str, str, bytes | None]] = [
        ("POST", path, body)
        for path in ("/events", "/recommendations", "/model")
        for body in bodies
    ]
    for text in TEXTS:
        coded = quote(text.encode("utf-8", "surrogatepass"), safe="")
        paths = [
            f"/users/{coded}/recommendations", f"/users/{coded}/history", f"/items/{coded}/similar",
            f"/users/{coded}/explanations/{coded}", f"/users/u/explanations/{coded}", f"/{coded}",
            f"/users/u/recommendations?candidates={coded}", f"/users/u/history?{coded}={coded}",
            f"/users/u/recommendations?exclude={coded}&exclude={coded}",
        ]  # fmt: skip
        asks += [("GET", path, None) for path in paths] + [("DELETE", f"/users/{coded}", None)]
    for number in NUMBERS:
        for name in ("k", "aversion", "allow_seen", "k=5&k", "aversion=1&aversion"):
            asks.append(("GET", f"/users/u/recommendations?{name}={number}", None))
        asks.append(("GET", f"/users/u/history?limit={number}", None))
        asks.append(("GET", f"/items/{known}/similar?k={number}&by={number}", None))
    for method in ("PUT", "PATCH", "OPTIONS", "HEAD", "TRACE", "DELETE", "SEARCH"):
        for path in ("/events", "/users/u/recommendations", "/model", "/nothing", "//"):
            asks.append((method, path, None))
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
    statuses, wrong = Counter[int](), []
    for method, path, body in asks:
        status, media_type, content = request(connection, method, path, body)
        if status == 0:  # the service answers before it has read all of a large body, and closes
            status, media_type, content = request(connection, method, path, body)
        is_right = 200 <= status < 300 and b"NaN" not in content
        is_refused = 400 <= status < 500 and media_type == PROBLEM
        statuses[status] += 1
        if not (is_right or is_refused):
            wrong.append((method, path[:80], (body or b"")[:80], status, content[:200]))
    connection.close()
    for each in wrong:
        click.echo(f"answered wrongly: {each}", err=True)
    refused = sum(number for status, number in statuses.items() if 400 <= status < 500)
    return Fault(
        f"malformed and hostile requests, {_database(service)}",
        f"{len(asks):,} requests",
        len(asks) - len(wrong),
        len(wrong),
        f"4xx with the reason ({refused:,}), or a right answer; never 5xx",
    )


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def many_users(service: Service, users: int, connections: int, prefix: str = "crowd") -> Fault:
    """Each of many users sends an event and asks for a list, over many connections."""
    lost, items = 0, items_of(service.run)
    waiting = iter(range(users))

    async def client() -> None:
        nonlocal lost
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        for number in waiting:
            item = items[number % len(items)]
            body = {"events": [event(f"{prefix}{number}", f"{prefix}-{number}", item)]}
            path = f"/users/{prefix}{number}/recommendations"
            try:
                is_added = await answer(reader, writer, post("/events", body)) == 201
                listed = await _answer_of(reader, writer, get(path))
            except (OSError, EOFError):  # the connection broke
                lost += 1
                reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
                continue
            is_right = is_added and listed["source"] == "model"
            lost += not is_right or item in [each["item"] for each in listed["items"]]
        writer.close()

    async def all_of_them() -> None:
        await asyncio.gather(*(client() for _ in range(connections)))

    asyncio.run(all_of_them())
    return Fault(
        f"{users:,} users at once, {connections:,} connections, "
        + ("2 processes" if service.workers else "1 process"),
        f"{2 * users:,} requests",
        2 * (users - lost),
        lost,
        "an answer to each event and a list that reflects it",
    )


async def _answer_of(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
) -> Any:
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")]
    return json.loads(await reader.readexactly(int(lengths[0].split(b":")[1])))


def slow_clients(service: Service, clients: int, requests: int) -> Fault:
    """Some clients send half a request or read no answer; the others' times are measured."""
    before = _times(service, requests)
    head = b"POST /events HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    halves = (
        head,
        head + b'content-length: 500\r\n\r\n{"events": [',
        get("/users/somebody/recommendations?k=100") * 20,  # and reads none of the answers
    )
    sockets = []
    for number in range(clients):
        slow = socket.create_connection(("127.0.0.1", service.port))
        slow.setblocking(False)
        try:
            slow.send(halves[number % len(halves)])
        except BlockingIOError:
            pass
        sockets.append(slow)
    time.sleep(1)
    during = _times(service, requests)
    for slow in sockets:
        slow.close()
    lost = requests - len(during)
    before_ms, during_ms = (1000 * float(np.median(times)) for times in (before, during))
    return Fault(
        f"{clients} clients that stop halfway or read nothing",
        f"{clients} connections",
        len(during),
        lost,
        f"others: a median of {during_ms:.1f} ms, without them {before_ms:.1f} ms",
    )


def _times(service: Service, requests: int) -> list[float]:
    """Seconds of the answers to some requests."""
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=10)
    times = []
    for number in range(requests):
        started = time.perf_counter()
        path = f"/users/slow{number}/recommendations"
        if request(connection, "GET", path)[0] == 200:
            times.append(time.perf_counter() - started)
    connection.close()
    return times


def _database(service: Service) -> str:
    return "SQLite" if service.store.startswith("sqlite") else "PostgreSQL"


def make_runs(folder: Path) -> tuple[Path, Path, Path]:
    """Two small runs that can be served, and one that cannot."""
    log = generate(num_users=30, num_items=60, num_topics=8, events_per_user=12).interactions
    small = ("training.epochs=1", "model.embedding_size=8", "graph.size=8", "split.n=3")
    for name, preset, seed in (("one", "emorec", 1), ("two", "emorec", 2), ("gat", "base-gat", 1)):
        settings = (*small, f"training.seed={seed}", "model.backend=torch")
        EmoRec(preset, *settings).fit(log, progress=False).save(folder / name)
    return folder / "one", folder / "two", folder / "gat"


@click.command(context_settings={"max_content_width": 100})
@click.option("--output", type=click.Path(path_type=Path), help="Markdown file of the table.")
def main(output: Path | None) -> None:
    """Bring about all faults, and write the table."""
    faults: list[Fault] = []

    def note(fault: Fault) -> None:
        faults.append(fault)
        click.echo(_row(fault))

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL runs as another user
        (folder / "runs").mkdir()
        one, two, gat = make_runs(folder / "runs")
        with Service(one, f"sqlite:///{folder / 'events.db'}") as service:
            note(hostile_requests(service))
            note(damaged_runs(service, two, gat, flips=200))
            note(slow_clients(service, 300, 1_000))
            note(many_users(service, 10_000, 2_500))
            note(disk_full(service, 5))
            note(killed(service, 10, 2.0))
        with Service(one, f"sqlite:///{folder / 'two.db'}", "--workers", "2") as service:
            note(two_workers(service, 500))
            note(worker_killed(service, 4, 1.0))
            note(supervisor_killed(service, 2, 1.0))
            note(many_users(service, 10_000, 2_500, "two"))
        note(clock_back(one, folder, (3_600, 86_400, 365 * 86_400)))
        if os.geteuid() == 0:
            note(disk_really_full(one, folder / "full"))
        (folder / "postgresql").mkdir()
        with (
            PostgreSQL(folder / "postgresql", is_durable=True) as server,
            Service(one, server.url) as service,
        ):
            note(hostile_requests(service))
            note(database_gone(service, server, 2, 60.0))
            note(killed(service, 10, 2.0, seed=1))
    if output is not None:
        facts = machine()
        lines = [
            "# Faults",
            "",
            "What became of requests when something failed, by "
            "[serve_faults.py](../serve_faults.py); *lost* counts events that were acknowledged "
            "and are not in the store, or are there twice, and answers that were wrong or did not "
            "come.",
            "",
            "| fault | injected | answered | lost | what a client sees |",
            "|---|---:|---:|---:|---|",
            *map(_row, faults),
            "",
            f"{facts['cpu']}, with other work beside it; commit {facts['commit']}.",
        ]
        output.write_text("\n".join(lines) + "\n")
    if any(fault.lost for fault in faults):
        raise SystemExit("something was lost")


def _row(fault: Fault) -> str:
    cells = (fault.name, fault.injected, f"{fault.answered:,}", str(fault.lost), fault.seen)
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
