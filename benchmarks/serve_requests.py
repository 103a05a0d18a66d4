"""Faults of what a service is asked: broken requests, damaged runs, too many or slow clients."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import random
import shutil
import socket
import time
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click
import numpy as np
from serve_bench import answer, get, post
from serve_events import PROBLEM, Fault, database_of, event, items_of, request
from servers import Service

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
        f"malformed and hostile requests, {database_of(service)}",
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
