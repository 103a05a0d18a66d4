"""What clients send to a service while something fails, and what it keeps of their events."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from servers import Service

from emorec.data.stores import engine_of
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


def database_of(service: Service) -> str:
    """Which database a service keeps its events in."""
    return "SQLite" if service.store.startswith("sqlite") else "PostgreSQL"
