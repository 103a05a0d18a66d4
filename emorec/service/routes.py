"""The routes: events, lists, users, items and the model, over HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from fastapi import Path as PathParameter
from fastapi.responses import PlainTextResponse
from starlette.convertors import StringConvertor, register_url_convertor

from emorec.data.feedback import Feedback
from emorec.service.ranker import NOTHING, Ask, History
from emorec.service.schemas import (
    MOST_ITEMS,
    NO_NUL,
    EventIn,
    EventsIn,
    EventsOut,
    ExplanationOut,
    HistoryEventOut,
    ListOut,
    ModelOut,
    ReasonOut,
    RecommendationsIn,
    RunIn,
    SimilarOut,
)
from emorec.service.serving import Asked, Served, Serving
from emorec.service.store import Event
from emorec.texts import plain

__all__ = ["ROUTES"]


class _Id(StringConvertor):
    regex = r"[\s\S]+"  # ids may hold slashes, as %2F, and line breaks


register_url_convertor("id", _Id())
ROUTES = APIRouter()
_PAGE = (resources.files("emorec.service") / "page.html").read_text(encoding="utf-8")
_POLICY = (  # the page has all it needs, and nobody may frame it
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_LATE = 300_000_000  # microseconds that an event may lie in the future


# Not plain functions: those would be called in a thread each time.
async def _serving(request: Request) -> Serving:
    serving: Serving = request.app.state.serving
    return serving


async def _served(request: Request) -> Served:
    served: Served = request.app.state.serving.served
    return served


Count = Annotated[int, Query(ge=1, le=1_000)]
Aversion = Annotated[float | None, Query(ge=0, le=1_000)]
Items = Annotated[list[str] | None, Query(max_length=MOST_ITEMS)]
User = Annotated[str, PathParameter(pattern=NO_NUL, examples=["ann"])]
Item = Annotated[str, PathParameter(pattern=NO_NUL, examples=["t07-0000"])]
Now = Annotated[Serving, Depends(_serving)]
Current = Annotated[Served, Depends(_served)]


@ROUTES.get("/", include_in_schema=False)
async def start() -> Response:
    """A page to try the service with."""
    return Response(_PAGE, media_type="text/html", headers={"content-security-policy": _POLICY})


@ROUTES.get("/healthz", tags=["operation"])
async def healthz() -> dict[str, str]:
    """Whether the process lives."""
    return {"status": "ok"}


@ROUTES.get("/readyz", tags=["operation"])
async def readyz(serving: Now) -> dict[str, str]:
    """Whether the right model makes lists, and the store answers."""
    if serving.behind:
        raise HTTPException(503, serving.behind)
    await asyncio.to_thread(serving.store.check)
    return {"status": "ok"}


@ROUTES.get("/metrics", response_class=PlainTextResponse, tags=["operation"])
async def metrics(serving: Now) -> Response:
    """Figures for Prometheus."""
    return Response(serving.metrics.text(), media_type=serving.metrics.content_type)


@ROUTES.post("/events", status_code=201, tags=["events"])
async def add_events(given: EventsIn, serving: Now) -> EventsOut:
    """Adds events. Those of an answer with status 201 are on disk."""
    now = serving.clock.now_us()
    kinds = await _kinds(serving, given.events)
    events = []
    for one, kind in zip(given.events, kinds, strict=True):
        if kind is None:
            continue
        events.append(Event(one.user, one.item, kind, _time_of(one, now), one.id))
    unknown = int((serving.served.ranker.index_of([e.item for e in events]) < 0).sum())
    added = await serving.writer(events) if events else []
    for event in added:
        serving.metrics.took(event)
    return EventsOut(
        added=len(added),
        duplicates=len(events) - len(added),
        dropped=len(given.events) - len(events),
        unknown_items=unknown,
    )


@ROUTES.get("/users/{user:id}/recommendations", response_model=ListOut, tags=["lists"])
async def recommendations(
    user: User,
    serving: Now,
    current: Current,
    k: Count = 10,
    aversion: Aversion = None,
    candidates: Items = None,
    exclude: Items = None,
    allow_seen: bool | None = None,
) -> Response:
    """The list of a user, with all events until now; unknown users get what is popular."""
    ask = _ask(current, NOTHING, k, aversion, candidates, exclude, allow_seen)
    return await _listed(serving, current, ask, user)


@ROUTES.post("/recommendations", response_model=ListOut, tags=["lists"])
async def recommendations_for(given: RecommendationsIn, serving: Now, current: Current) -> Response:
    """A list for a history that belongs to no user, such as an anonymous session."""
    now = serving.clock.now_us()
    kinds = await _kinds(serving, given.events)
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
    return await _listed(serving, current, ask)


@ROUTES.get("/users/{user:id}/history", tags=["users"])
async def history(user: User, current: Current, limit: Count = 100) -> list[HistoryEventOut]:
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


@ROUTES.get("/users/{user:id}/explanations/{item:id}", tags=["users"])
async def explanation(
    user: User, item: Item, serving: Now, current: Current, limit: Count = 20
) -> ExplanationOut:
    """Which of the user's events raise or lower an item, by leaving each out."""
    place = _known(current, item)
    found = await asyncio.to_thread(current.histories.of, user)
    if not len(found):
        raise HTTPException(404, f"user {user!r} has no events to explain by")
    loop = asyncio.get_running_loop()
    why = await loop.run_in_executor(
        serving.lists.thread, current.ranker.explain, user, found, place
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


@ROUTES.delete("/users/{user:id}", tags=["users"])
async def forget(user: User, serving: Now) -> dict[str, int]:
    """Forgets a user: deletes the events of the store, and no longer uses those of the run."""
    deleted = await asyncio.to_thread(serving.store.forget, user)
    serving.metrics.forgot(user)
    return {"deleted": deleted}


@ROUTES.get("/items/{item:id}/similar", tags=["items"])
async def similar(
    item: Item, current: Current, k: Count = 10, by: Literal["audience", "taste"] = "audience"
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


@ROUTES.get("/model", tags=["model"])
async def model(serving: Now, current: Current) -> ModelOut:
    """The model that serves."""
    return _model_out(serving, current)


@ROUTES.post("/model", tags=["model"])
async def switch(given: RunIn, serving: Now) -> ModelOut:
    """Serves another run; requests that are under way keep the model that they began with."""
    if given.name in (".", "..") or Path(given.name).name != given.name:
        raise HTTPException(422, f"name: {given.name!r} is not the name of a folder")
    try:
        await serving.switch(given.name)
    except (OSError, ValueError) as error:
        raise _stays(serving, error) from error
    return _model_out(serving, serving.served)


@ROUTES.post("/model/rollback", tags=["model"])
async def rollback(serving: Now) -> ModelOut:
    """Serves the model before the last switch again."""
    if serving.chosen.previous is None:
        raise HTTPException(409, "there is no earlier model to go back to")
    try:
        await serving.switch(serving.chosen.previous)
    except (OSError, ValueError) as error:
        raise _stays(serving, error) from error
    return _model_out(serving, serving.served)


def _stays(serving: Serving, error: Exception) -> HTTPException:
    why = str(error).replace(f"{serving.settings.run.parent}/", "")
    return HTTPException(409, f"{why}; {serving.served.name} still serves")


async def _kinds(serving: Serving, events: Sequence[EventIn]) -> list[int | None]:
    """The kind of feedback of each event, given or by the run's rules."""
    found = [event.kind for event in events]
    raw = [place for place, event in enumerate(events) if event.behaviour is not None]
    if raw:
        behaviours = [events[place].behaviour or {} for place in raw]
        try:
            kinds = await asyncio.to_thread(serving.kinds, behaviours)
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
    current: Served,
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


async def _listed(serving: Serving, current: Served, ask: Ask, user: str | None = None) -> Response:
    """A list as JSON, which is not validated once more."""
    found = await serving.lists(Asked(current, ask, user))
    rows = len(found.item)
    nothing: list[float | None] = [None] * rows
    scores: Sequence[float | None] = nothing if found.score is None else found.score
    liked: Sequence[float | None] = nothing if found.liked is None else found.liked
    items = [
        {**current.ranker.named[item], "score": score, "liked": probability}
        for item, score, probability in zip(found.item, scores, liked, strict=True)
    ]
    if user is not None:
        serving.metrics.showed(user, [str(item["item"]) for item in items])
    body = {"items": items, "source": found.source, "model": current.name}
    return Response(json.dumps(body, ensure_ascii=False), media_type="application/json")


def _known(current: Served, item: str) -> int:
    place = int(current.ranker.index_of([item])[0])
    if place < 0:
        raise HTTPException(404, f"item {item!r} is not in the catalogue of the model")
    return place


def _model_out(serving: Serving, current: Served) -> ModelOut:
    log = current.ranker.recommender.split.log
    return ModelOut(
        name=current.name,
        preset=current.ranker.recommender.config.preset,
        users=log.num_users,
        items=log.num_items,
        aversion=current.ranker.model.aversion,
        loaded=current.loaded,
        previous=serving.chosen.previous,
    )
