"""What is checked before the application sees a request; keys and rates are in test_service.py."""

from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("fastapi", reason="needs FastAPI, the extra serve")
from emorec.service.guard import Guard  # noqa: E402


class Figures:
    """Takes the place of the service's metrics."""

    def __init__(self):
        self.statuses = []

    def answered(self, method, route, status, seconds):
        self.statuses.append(status)


def passed(*messages):
    """What the application got and what was noted, of a request whose client sends messages."""
    got, sent, figures, left = [], [], Figures(), list(messages)

    async def receive():
        return left.pop(0)

    async def send(message):
        sent.append(message)

    async def app(scope, receive, send):
        got.extend([await receive(), await receive()])
        await send({"type": "http.response.start", "status": 201, "headers": []})

    scope = {"type": "http", "method": "POST", "path": "/events", "client": ("1.2.3.4", 5)}
    scope["headers"] = [(b"content-length", b"4")]
    asyncio.run(Guard(app, figures, (), None)(scope, receive, send))
    return got, sent, figures.statuses


GONE = {"type": "http.disconnect"}


def part(body, more=False):
    return {"type": "http.request", "body": body, "more_body": more}


def test_a_body_comes_whole_and_then_what_comes_after_it():
    got, _, statuses = passed(part(b"ab", more=True), part(b"cd"), GONE)
    assert got == [part(b"abcd"), GONE] and statuses == [201]


def test_nothing_is_done_for_a_client_that_left():
    got, sent, statuses = passed(part(b"ab", more=True), GONE)
    assert (got, sent) == ([], [])
    assert statuses == [499]  # which is no error of the service
