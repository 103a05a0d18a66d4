"""The service: routes over a trained model and a store of events."""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import time
import warnings
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy import make_url
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from emorec import __version__
from emorec.data.feedback import Feedback
from emorec.recommender import EmoRec
from emorec.service.batching import Batcher
from emorec.service.histories import Histories
from emorec.service.metrics import Metrics
from emorec.service.ranker import NOTHING, Ask, History, Listed, Ranker
from emorec.service.schemas import (
    MOST_ITEMS,
    EventIn,
    EventsIn,
    EventsOut,
    ExplanationOut,
    HistoryEventOut,
    ListOut,
    ModelOut,
    Problem,
    ReasonOut,
    RecommendationsIn,
    RunIn,
    SimilarOut,
)
from emorec.service.store import Event, Store, StoreError
from emorec.storage.files import FileError
from emorec.texts import plain

__all__ = ["Settings", "app_of_environment", "create_app"]

_MOST_BODY = 1_000_000  # bytes
_MOST_TOGETHER = 64  # lists that are computed together
_MOST_COMMITTED = 256  # requests whose events are one transaction
_POLICY = (  # the page has all it needs, and nobody may frame it
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_OPEN = ("/", "/healthz", "/readyz")  # without a key
_ENVIRONMENT = "EMOREC_SERVICE"
_LATE = 300_000_000  # microseconds that an event may lie in the future


@dataclass
class Settings:
    """How the service runs.

    Attributes:
        run: The run folder to serve.
        store: URL of the store of events.
        api_keys: Keys of which a request must have one; empty: none is asked for.
        origins: Origins of pages that browsers may call the service from.
        most_users: Users whose events are kept in memory.
    """

    run: Path
    store: str
    api_keys: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    most_users: int = 100_000

    @property
    def shown_store(self) -> str:
        """The store's URL without its password."""
        return str(make_url(self.store).render_as_string(hide_password=True))

    def as_environment(self) -> dict[str, str]:
        """Variables for the processes of several workers."""
        return {_ENVIRONMENT: json.dumps({**asdict(self), "run": str(self.run)})}


@dataclass(frozen=True)
class _Asked:
    """A list that is asked for.

    Attributes:
        served: The model that makes it.
        ask: What is asked; the history is filled in for a user.
        user: Whose list it is; None: that of a history that belongs to no user.
    """

    served: _Served
    ask: Ask
    user: str | None


@dataclass
class _Served:
    """A model in service."""

    name: str
    ranker: Ranker
    histories: Histories
    lists: OrderedDict[Any, Listed] = field(default_factory=OrderedDict)  # of the ranking thread
    loaded: datetime = field(default_factory=lambda: datetime.now(UTC))


class _Service:
    """What the routes share."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = Store(settings.store)
        self.metrics = Metrics()
        self.previous: _Served | None = None
        self.served = self.load(settings.run)
        self.metrics.serves(self.served.ranker)
        self.lists: Batcher[_Asked, Listed] = Batcher(self._rank, _MOST_TOGETHER, "ranking")
        self.writer: Batcher[list[Event], list[Event]] = Batcher(
            self.store.add, _MOST_COMMITTED, "store"
        )
        self.switching = asyncio.Lock()

    def load(self, run: Path) -> _Served:
        """Loads a run.

        Raises:
            FileError: If it is damaged or not there.
            ValueError: If it cannot be served.
        """
        ranker = Ranker(EmoRec.load(run, backend="torch"))
        return _Served(run.name, ranker, Histories(ranker, self.store, self.settings.most_users))

    def kinds(self, behaviours: Sequence[dict[str, Any]]) -> list[int | None]:
        """The kind of feedback of each behaviour, by the run's rules; None where none matches.

        Raises:
            ValueError: If a column that the rules need is missing, or has a value that they cannot
                read.
        """
        recommender = self.served.ranker.recommender
        data = recommender.config.data
        frame = pd.DataFrame(list(behaviours))
        frame[data.user_column] = [str(place) for place in range(len(behaviours))]
        frame[data.item_column] = "item"
        if data.time_column:
            frame[data.time_column] = 1_000_000_000
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # dropped rows are counted in the answer
            log = recommender.read_events(frame)
        found: list[int | None] = [None] * len(behaviours)
        if log is not None:
            for user, kind in zip(log.users.lookup(log.user), log.feedback, strict=True):
                found[int(user)] = int(kind)
        return found

    def _rank(self, asked: Sequence[_Asked]) -> list[Listed]:
        """Lists that are asked for at once; those whose history is not new are remembered.

        They are of several models if one was switched to just now: requests that came before keep
        theirs.
        """
        found: dict[int, Listed] = {}
        for served in {id(each.served): each.served for each in asked}.values():
            own = [place for place, each in enumerate(asked) if each.served is served]
            users = [user for place in own if (user := asked[place].user) is not None]
            histories = served.histories.of_many(users)
            new: dict[int, Ask] = {}
            keys: dict[int, Any] = {}
            for place in own:
                ask, user = asked[place].ask, asked[place].user
                if user is not None:
                    version, history = histories[user]
                    keys[place] = user, version, ask.options
                    if (known := served.lists.get(keys[place])) is not None:
                        served.lists.move_to_end(keys[place])
                        found[place] = known
                        continue
                    ask = replace(ask, history=history)
                new[place] = ask
            for place, listed in zip(new, served.ranker.rank(list(new.values())), strict=True):
                found[place] = listed
                if place in keys:
                    served.lists[keys[place]] = listed
            while len(served.lists) > self.settings.most_users:
                served.lists.popitem(last=False)
        return [found[place] for place in range(len(asked))]

    def close(self) -> None:
        self.lists.close()
        self.writer.close()
        self.store.close()


def _served_now(request: Request) -> _Served:
    served: _Served = request.app.state.service.served
    return served


Count = Annotated[int, Query(ge=1, le=1_000)]
Aversion = Annotated[float | None, Query(ge=0, le=1_000)]
Items = Annotated[list[str] | None, Query(max_length=MOST_ITEMS)]
Current = Annotated[_Served, Depends(_served_now)]


def create_app(settings: Settings) -> FastAPI:
    """The application.

    Raises:
        FileError: If the run is damaged or not there.
        StoreError: If the store cannot be opened.
        ValueError: If the run cannot be served.
    """
    service = _Service(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    app = FastAPI(
        title="EmoRec",
        version=__version__,
        description="Recommendations for people who both like and dislike things.",
        lifespan=lifespan,
        responses={"4XX": {"model": Problem}, "5XX": {"model": Problem}},
    )
    app.state.service = service
    _add_errors(app)
    _add_routes(app, service)
    if settings.origins:
        from fastapi.middleware.cors import CORSMiddleware

        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.origins),
            allow_methods=["*"],
            allow_headers=["authorization", "content-type"],
        )
    app.add_middleware(_Guard, service=service)
    return app


def app_of_environment() -> FastAPI:
    """The application of a worker, see `Settings.as_environment`."""
    given = json.loads(os.environ[_ENVIRONMENT])
    return create_app(
        Settings(
            **given
            | {
                "run": Path(given["run"]),
                "api_keys": tuple(given["api_keys"]),
                "origins": tuple(given["origins"]),
            }
        )
    )


def _problem(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    import http

    problem = Problem(title=http.HTTPStatus(status).phrase, status=status, detail=detail)
    return JSONResponse(
        problem.model_dump(), status, headers, media_type="application/problem+json"
    )


def _add_errors(app: FastAPI) -> None:
    """Every error as problem+json."""

    @app.exception_handler(StarletteHTTPException)
    async def failed(_: Request, error: StarletteHTTPException) -> Response:
        return _problem(error.status_code, str(error.detail), dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(each) for each in first["loc"][1:]) or str(first["loc"][0])
        return _problem(422, f"{where}: {first['msg']}")

    @app.exception_handler(StoreError)
    async def no_store(_: Request, error: StoreError) -> Response:
        return _problem(503, str(error), {"retry-after": "1"})


class _Guard:
    """Keys, the size of bodies, and the times of answers, around the application."""

    def __init__(self, app: ASGIApp, service: _Service) -> None:
        self._app, self._metrics = app, service.metrics
        self._keys = [key.encode() for key in service.settings.api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
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
            await self._checked(scope, receive, noted)
        finally:
            path = getattr(scope.get("route"), "path", "unknown")
            seconds = time.perf_counter() - started
            self._metrics.answered(scope["method"], path, status, seconds)

    async def _checked(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        if self._keys and scope["path"] not in _OPEN:
            given = headers.get("authorization", "").removeprefix("Bearer ").encode()
            # All keys are compared, whichever fits, so that the time tells nothing.
            if not any([hmac.compare_digest(given, key) for key in self._keys]):
                detail = "an API key is needed: the header Authorization: Bearer KEY"
                wanted = {"www-authenticate": "Bearer"}
                await _problem(401, detail, wanted)(scope, receive, send)
                return
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > _MOST_BODY:
            detail = f"the body has {length} bytes; at most {_MOST_BODY:,} are read"
            await _problem(413, detail)(scope, receive, send)
            return
        if not length.isdecimal() and "transfer-encoding" in headers:
            body, more = b"", True
            while more:
                message = await receive()
                body += message.get("body", b"")
                more = message.get("more_body", False)
                if len(body) > _MOST_BODY:
                    detail = f"the body is longer than {_MOST_BODY:,} bytes"
                    await _problem(413, detail)(scope, receive, send)
                    return

            async def whole() -> Message:
                return {"type": "http.request", "body": body, "more_body": False}

            await self._app(scope, whole, send)
            return
        await self._app(scope, receive, send)


def _add_routes(app: FastAPI, service: _Service) -> None:
    page = (resources.files("emorec.service") / "page.html").read_text(encoding="utf-8")

    @app.get("/", include_in_schema=False)
    async def start() -> Response:
        """A page to try the service with."""
        return Response(page, media_type="text/html", headers={"content-security-policy": _POLICY})

    @app.get("/healthz", tags=["operation"])
    async def healthz() -> dict[str, str]:
        """Whether the process lives."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["operation"])
    async def readyz() -> dict[str, str]:
        """Whether lists can be made and events be stored."""
        await asyncio.to_thread(service.store.check)
        return {"status": "ok"}

    @app.get("/metrics", tags=["operation"])
    async def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(service.metrics.text(), media_type=service.metrics.content_type)

    @app.post("/events", status_code=201, tags=["events"])
    async def add_events(given: EventsIn) -> EventsOut:
        """Adds events. Those of an answer with status 201 are on disk."""
        now = time.time_ns() // 1000
        kinds = await _kinds(service, given.events)
        events = []
        for one, kind in zip(given.events, kinds, strict=True):
            if kind is None:
                continue
            events.append(Event(one.user, one.item, kind, _time_of(one, now), one.id))
        unknown = int((service.served.ranker.index_of([e.item for e in events]) < 0).sum())
        added = await service.writer(events) if events else []
        for event in added:
            service.metrics.took(event)
        return EventsOut(
            added=len(added),
            duplicates=len(events) - len(added),
            dropped=len(given.events) - len(events),
            unknown_items=unknown,
        )

    @app.get("/users/{user}/recommendations", response_model=ListOut, tags=["lists"])
    async def recommendations(
        user: str,
        current: Current,
        k: Count = 10,
        aversion: Aversion = None,
        candidates: Items = None,
        exclude: Items = None,
        allow_seen: bool | None = None,
    ) -> Response:
        """The list of a user, with all events until now; unknown users get what is popular."""
        ask = _ask(current, NOTHING, k, aversion, candidates, exclude, allow_seen)
        return await _listed(service, current, ask, user)

    @app.post("/recommendations", response_model=ListOut, tags=["lists"])
    async def recommendations_for(given: RecommendationsIn, current: Current) -> Response:
        """A list for a history that belongs to no user, such as an anonymous session."""
        now = time.time_ns() // 1000
        kinds = await _kinds(service, given.events)
        rows = [
            (item, kind, _time_of(event, now))
            for event, kind, item in zip(
                given.events,
                kinds,
                current.ranker.index_of([event.item for event in given.events]).tolist(),
                strict=True,
            )
            if kind is not None and item >= 0
        ]
        history = History.of(*(zip(*rows, strict=True) if rows else ([], [], [])))
        ask = _ask(
            current,
            history,
            given.k,
            given.aversion,
            given.candidates,
            given.exclude,
            given.allow_seen,
        )
        return await _listed(service, current, ask)

    @app.get("/users/{user}/history", tags=["users"])
    async def history(user: str, current: Current, limit: Count = 100) -> list[HistoryEventOut]:
        """A user's newest events, the newest first."""
        found = await asyncio.to_thread(current.histories.of, user)
        rows = range(len(found) - 1, max(-1, len(found) - 1 - limit), -1)
        return [
            HistoryEventOut(
                **current.ranker.named[found.item[row]],
                feedback=Feedback(int(found.feedback[row])).label,
                time=datetime.fromtimestamp(int(found.time_us[row]) / 1_000_000, UTC),
            )
            for row in rows
        ]

    @app.get("/users/{user}/explanations/{item}", tags=["users"])
    async def explanation(
        user: str, item: str, current: Current, limit: Count = 20
    ) -> ExplanationOut:
        """Which of the user's events raise or lower an item, by leaving each out."""
        place = _known(current, item)
        found = await asyncio.to_thread(current.histories.of, user)
        if not len(found):
            raise HTTPException(404, f"user {user!r} has no events to explain by")
        loop = asyncio.get_running_loop()
        why = await loop.run_in_executor(
            service.lists.thread, current.ranker.explain, user, found, place
        )
        events = why.events.head(limit).to_dict("records")
        return ExplanationOut(
            **current.ranker.named[place],
            score=why.score,
            liked=why.liked,
            terms=why.terms,
            events=[
                ReasonOut(
                    item=plain(row["item"]),
                    title=row.get("title"),
                    feedback=row["feedback"],
                    newer=row["newer"],
                    effect=row["effect"],
                )
                for row in events
            ],
        )

    @app.delete("/users/{user}", tags=["users"])
    async def forget(user: str) -> dict[str, int]:
        """Forgets a user: deletes the events of the store, and no longer uses those of the run."""
        deleted = await asyncio.to_thread(service.store.forget, user)
        service.metrics.forgot(user)
        return {"deleted": deleted}

    @app.get("/items/{item}/similar", tags=["items"])
    async def similar(
        item: str, current: Current, k: Count = 10, by: Literal["audience", "taste"] = "audience"
    ) -> list[SimilarOut]:
        """Items whose audience, or the taste of whose audience, is similar."""
        place = _known(current, item)
        try:
            items, values = await asyncio.to_thread(current.ranker.similar, place, k, by)
        except ValueError as error:
            raise HTTPException(422, str(error)) from error
        return [
            SimilarOut(**current.ranker.named[other], similarity=value)
            for other, value in zip(items, values, strict=True)
        ]

    @app.get("/model", tags=["model"])
    async def model(current: Current) -> ModelOut:
        """The model that serves."""
        return _model_out(service, current)

    @app.post("/model", tags=["model"])
    async def switch(given: RunIn) -> ModelOut:
        """Serves another run; requests that are under way keep the model that they began with."""
        if given.name in (".", "..") or Path(given.name).name != given.name:
            raise HTTPException(422, f"name: {given.name!r} is not the name of a folder")
        async with service.switching:
            try:
                new = await asyncio.to_thread(
                    service.load, service.settings.run.parent / given.name
                )
            except (FileError, ValueError) as error:
                why = str(error).replace(f"{service.settings.run.parent}/", "")
                raise HTTPException(409, f"{why}; {service.served.name} still serves") from error
            service.previous, service.served = service.served, new
            service.metrics.serves(new.ranker)
        return _model_out(service, service.served)

    @app.post("/model/rollback", tags=["model"])
    async def rollback() -> ModelOut:
        """Serves the model before the last switch again."""
        async with service.switching:
            if service.previous is None:
                raise HTTPException(409, "there is no earlier model to go back to")
            service.previous, service.served = service.served, service.previous
            service.metrics.serves(service.served.ranker)
        return _model_out(service, service.served)


async def _kinds(service: _Service, events: Sequence[EventIn]) -> list[int | None]:
    """The kind of feedback of each event, given or by the run's rules."""
    found = [event.kind for event in events]
    raw = [place for place, event in enumerate(events) if event.behaviour is not None]
    if raw:
        behaviours = [events[place].behaviour or {} for place in raw]
        try:
            kinds = await asyncio.to_thread(service.kinds, behaviours)
        except ValueError as error:
            raise HTTPException(422, f"behaviour: {error}") from error
        for place, kind in zip(raw, kinds, strict=True):
            found[place] = kind
    return found


def _time_of(event: EventIn, now_us: int) -> int:
    try:
        at = event.time_us(now_us)
    except (ValueError, OverflowError) as error:
        raise HTTPException(422, f"time: {error}") from error
    if at > now_us + _LATE:
        raise HTTPException(422, f"time: {event.time} is in the future")
    return at


def _ask(
    current: _Served,
    history: History,
    k: int,
    aversion: float | None,
    candidates: list[str] | None,
    exclude: list[str] | None,
    allow_seen: bool | None,
) -> Ask:
    chosen = None
    if candidates is not None:
        chosen = current.ranker.index_of(candidates)
        chosen = chosen[chosen >= 0]
        if not len(chosen):
            raise HTTPException(422, f"candidates: none of {len(candidates):,} items is known")
    left = None
    if exclude:
        left = current.ranker.index_of(exclude)
        left = left[left >= 0]
    return Ask(history, k, aversion, chosen, left, allow_seen)


async def _listed(
    service: _Service, current: _Served, ask: Ask, user: str | None = None
) -> Response:
    """A list as JSON, which is not validated once more."""
    found = await service.lists(_Asked(current, ask, user))
    rows = len(found.item)
    nothing: list[float | None] = [None] * rows
    scores: Sequence[float | None] = nothing if found.score is None else found.score
    liked: Sequence[float | None] = nothing if found.liked is None else found.liked
    items = [
        {**current.ranker.named[item], "score": score, "liked": probability}
        for item, score, probability in zip(found.item, scores, liked, strict=True)
    ]
    if user is not None:
        service.metrics.showed(user, [str(item["item"]) for item in items])
    body = {"items": items, "source": found.source, "model": current.name}
    return Response(json.dumps(body, ensure_ascii=False), media_type="application/json")


def _known(current: _Served, item: str) -> int:
    place = int(current.ranker.index_of([item])[0])
    if place < 0:
        raise HTTPException(404, f"item {item!r} is not in the catalogue of the model")
    return place


def _model_out(service: _Service, current: _Served) -> ModelOut:
    log = current.ranker.recommender.split.log
    return ModelOut(
        name=current.name,
        preset=current.ranker.recommender.config.preset,
        users=log.num_users,
        items=log.num_items,
        aversion=current.ranker.model.aversion,
        loaded=current.loaded,
        previous=None if service.previous is None else service.previous.name,
    )
