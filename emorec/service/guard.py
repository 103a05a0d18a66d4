"""Keys, sizes and rates: what is checked before the application sees a request."""

from __future__ import annotations

import asyncio
import hmac
import math
import time

from limits import RateLimitItem, parse
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from emorec.service.metrics import Metrics
from emorec.service.problems import problem

__all__ = ["Guard", "RateLimit"]

_MOST_BODY = 1_000_000  # bytes
_SECONDS_FOR_BODY = 30
_OF_BODIES = (b"content-length", b"transfer-encoding")  # headers of requests that have one
_CLIENT_LEFT = 499  # the status that is noted where nobody waits for an answer
_OPEN = ("/", "/healthz", "/readyz")  # without a key, and as often as anybody likes


class RateLimit:
    """Counts the requests of each client over a window that slides.

    Args:
        text: Such as "100/second" or "5000 per 10 minutes".

    Raises:
        ValueError: If the text is no rate.
    """

    def __init__(self, text: str) -> None:
        try:
            self._limit: RateLimitItem = parse(text)
        except ValueError as error:
            raise ValueError(
                f"the rate {text!r} is not understood; give one such as 100/second"
            ) from error
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())

    def seconds_to_wait(self, client: str) -> int:
        """Counts a request; 0 if it may pass, else the seconds until the next one may."""
        if self._limiter.hit(self._limit, client):
            return 0
        reset = self._limiter.get_window_stats(self._limit, client).reset_time
        return max(1, math.ceil(reset - time.time()))

    def __str__(self) -> str:
        return str(self._limit)


class Guard:
    """Checks a request's key, its client's rate and its size, and notes the time of its answer.

    Args:
        app: The application.
        metrics: Takes the times.
        api_keys: Keys of which a request must have one; empty: none is asked for.
        rate: Limit of each client's requests: of each key, or without keys each address.
    """

    def __init__(
        self, app: ASGIApp, metrics: Metrics, api_keys: tuple[str, ...], rate: RateLimit | None
    ) -> None:
        self._app, self._metrics, self._rate = app, metrics, rate
        self._keys = [key.encode() for key in api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request that is refused, and passes others on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            headers = dict(scope["headers"])
            refusal = self._refusal(scope, headers)
            if refusal is None and not headers.keys().isdisjoint(_OF_BODIES):
                body = await _whole_body(receive)
                if body is None:
                    status = _CLIENT_LEFT
                    return
                if isinstance(body, bytes):
                    receive = _receiver(body, receive)
                else:
                    refusal = body
            if refusal is None:
                await self._app(scope, receive, noted)
            else:
                await refusal(scope, receive, noted)
        finally:
            path = getattr(scope.get("route"), "path_format", "unknown")
            seconds = time.perf_counter() - started
            self._metrics.answered(scope["method"], path, status, seconds)

    def _refusal(self, scope: Scope, headers: dict[bytes, bytes]) -> Response | None:
        if scope["path"] not in _OPEN:
            given = headers.get(b"authorization", b"").removeprefix(b"Bearer ")
            # All keys are compared, whichever fits, so that the time tells nothing.
            if self._keys and not any([hmac.compare_digest(given, key) for key in self._keys]):
                detail = "an API key is needed: the header Authorization: Bearer KEY"
                return problem(401, detail, {"www-authenticate": "Bearer"})
            if self._rate is not None:
                address = (scope.get("client") or ("",))[0]
                client = given.decode("latin-1") if self._keys else address
                if wait := self._rate.seconds_to_wait(client):
                    detail = f"more than {self._rate} requests; wait {wait} s"
                    return problem(429, detail, {"retry-after": str(wait)})
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > _MOST_BODY:
            detail = f"the body has {length.decode()} bytes; at most {_MOST_BODY:,} are read"
            return problem(413, detail)
        return None


async def _whole_body(receive: Receive) -> bytes | Response | None:
    """A request's body; what to answer if it is too long or too slow; None if the client left."""
    body, more = b"", True
    try:
        async with asyncio.timeout(_SECONDS_FOR_BODY):
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                body += message.get("body", b"")
                more = message.get("more_body", False)
                if len(body) > _MOST_BODY:
                    return problem(413, f"the body is longer than {_MOST_BODY:,} bytes")
    except TimeoutError:
        return problem(408, f"the body was not there within {_SECONDS_FOR_BODY} s")
    return body


def _receiver(body: bytes, receive: Receive) -> Receive:
    """Gives a body that was read already, then whatever comes after it."""
    is_given = False

    async def receiver() -> Message:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receiver
