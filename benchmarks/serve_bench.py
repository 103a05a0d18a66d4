"""How many lists and events the service answers, and how fast.

    python benchmarks/serve_bench.py RUN --connections 64 --seconds 10

Starts `emorec serve` on a loopback port with a store in a temporary folder, and asks it over
keep-alive connections that each send a request as soon as the last one is answered:

* lists at once: of users drawn at random from the run's log, as soon as the service is ready, while
  it still computes lists in advance;
* lists again: of 200 users;
* lists: of users drawn at random, when their lists were computed in advance;
* events: one per request, each of another user;
* mixed: four lists per event, all of random users;
* after a dislike: an event, then the list of its user, one connection.

Clients and service share the machine's cores, so figures are lower bounds. With ``--peers`` the
same clients then ask other services for lists of the same users.
"""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import psutil
from machine import machine
from serve_peers import PEERS, running, task_of
from servers import Service

from emorec.run_folder import load_split

Request = Callable[[random.Random], bytes]
Figures = dict[str, dict[str, float]]


@click.command(context_settings={"max_content_width": 100})
@click.argument("run", type=click.Path(path_type=Path, exists=True))
@click.option("--connections", default=64, show_default=True)
@click.option("--seconds", default=10.0, show_default=True, help="Of each measurement.")
@click.option("--workers", default=1, show_default=True)
@click.option(
    "--peers",
    "environments",
    type=click.Path(path_type=Path),
    help="Also measure other services; the folder of benchmarks/peers/setup.sh.",
)
@click.option("--output", type=click.Path(path_type=Path), help="JSON file of the figures.")
def main(
    run: Path,
    connections: int,
    seconds: float,
    workers: int,
    environments: Path | None,
    output: Path | None,
) -> None:
    """Measure the service of RUN."""
    log = load_split(run).log
    users, items = [str(u) for u in log.users.ids], [str(i) for i in log.items.ids]

    def lists(rng: random.Random) -> bytes:
        return get(f"/users/{rng.choice(users)}/recommendations")

    def again(rng: random.Random) -> bytes:
        return get(f"/users/{users[rng.randrange(min(200, len(users)))]}/recommendations")

    def events(rng: random.Random) -> bytes:
        kind = rng.choice(("explicit_positive", "implicit_negative", "explicit_negative"))
        event = {"user": rng.choice(users), "item": rng.choice(items), "feedback": kind}
        return post("/events", {"events": [event]})

    def mixed(rng: random.Random) -> bytes:
        return lists(rng) if rng.random() < 0.8 else events(rng)

    def others(path: Callable[[int], str], most: int) -> Request:
        return lambda rng: get(path(rng.randrange(min(most, len(users)))))

    figures: Figures = {}
    peers: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = f"sqlite:///{folder / 'events.db'}"
        with Service(run, store, "--workers", str(workers)) as service:
            asked = {"lists at once": lists, "lists again": again, "lists": lists}
            asked |= {"events": events, "mixed": mixed}
            figures = measured(asked, service.process.pid, service.port, connections, seconds)
            pairs = [
                lambda rng: events_of(rng, users[0], items),
                lambda _: get(f"/users/{users[0]}/recommendations"),
            ]
            figures["after a dislike"] = asyncio.run(in_turn(service.port, pairs, 100))
            click.echo(f"after a dislike: {shown(figures['after a dislike'])}")
        for peer in PEERS if environments else ():
            click.echo(f"== {peer.shown}")
            (folder / "peers").mkdir(exist_ok=True)
            task = task_of(log, folder / "task.npz")
            try:
                serving = running(peer, environments, task, folder / "peers", workers)
                with serving as (process, port):
                    asked = {
                        "lists": others(peer.list_of, len(users)),
                        "lists again": others(peer.list_of, 200),
                    }
                    found = measured(asked, process.pid, port, connections, seconds)
                    peers[peer.name] = {"shown": peer.shown, "figures": found}
            except FileNotFoundError as error:
                click.echo(f"skipped: {error}")
    if output is not None:
        facts: dict[str, Any] = {"machine": machine(), "connections": connections}
        facts |= {"workers": workers, "figures": figures, "peers": peers}
        output.write_text(json.dumps(facts, indent=1) + "\n")


def measured(
    asked: dict[str, Request], pid: int, port: int, connections: int, seconds: float
) -> Figures:
    """Figures of some kinds of requests, one kind after the other."""
    figures = {}
    for name, request in asked.items():
        before = cpu_seconds(pid)
        figures[name] = asyncio.run(load(port, request, connections, seconds))
        answers = figures[name]["per_second"] * seconds
        figures[name]["cpu_ms"] = 1000 * (cpu_seconds(pid) - before) / answers
        click.echo(f"{name}: {shown(figures[name])}")
    return figures


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a process and its children until now."""
    processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return sum(sum(each.cpu_times()[:2]) for each in processes)


def events_of(rng: random.Random, user: str, items: list[str]) -> bytes:
    """A dislike of a user."""
    event = {"user": user, "item": rng.choice(items), "feedback": "explicit_negative"}
    return post("/events", {"events": [event]})


def get(path: str) -> bytes:
    """A request without a body."""
    return f"GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()


def post(path: str, body: object) -> bytes:
    """A request with a JSON body."""
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(content)}\r\n\r\n".encode() + content


async def load(port: int, request: Request, connections: int, seconds: float) -> dict[str, float]:
    """Requests per second and times of answers, over some connections."""
    times: list[float] = []
    refused = 0
    until = time.perf_counter() + seconds

    async def client(number: int) -> None:
        nonlocal refused
        rng = random.Random(number)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < until:
            started = time.perf_counter()
            status = await answer(reader, writer, request(rng))
            times.append(time.perf_counter() - started)
            refused += status >= 300
        writer.close()

    started = time.perf_counter()
    await asyncio.gather(*(client(number) for number in range(connections)))
    return summary(times, time.perf_counter() - started, refused)


async def in_turn(port: int, requests: list[Request], rounds: int) -> dict[str, float]:
    """Times of the last of some requests, one after the other."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    rng, times, refused = random.Random(0), [], 0
    begun = time.perf_counter()
    for _ in range(rounds):
        for request in requests:
            started = time.perf_counter()
            refused += await answer(reader, writer, request(rng)) >= 300
        times.append(time.perf_counter() - started)
    writer.close()
    return summary(times, time.perf_counter() - begun, refused)


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> int:
    """Sends a request and reads its answer; the status."""
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    await reader.readexactly(length)
    return int(head.split(b" ", 2)[1])


def summary(times: list[float], seconds: float, refused: int) -> dict[str, float]:
    """What is shown of the times of answers, in milliseconds."""
    ms = 1000 * np.array(times)
    return {
        "per_second": len(ms) / seconds,
        "median_ms": float(np.median(ms)),
        "p99_ms": float(np.quantile(ms, 0.99)),
        "refused": refused,
    }


def shown(figures: dict[str, float]) -> str:
    """A line of figures."""
    return (
        f"{figures['per_second']:.0f} per second, median {figures['median_ms']:.1f} ms, p99 "
        f"{figures['p99_ms']:.1f} ms, {figures['refused']:.0f} refused"
        + (f", {figures['cpu_ms']:.2f} CPU ms of the service each" if "cpu_ms" in figures else "")
    )


if __name__ == "__main__":
    main()
