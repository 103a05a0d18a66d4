"""The application: routes over a trained model and a store of events."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from emorec import __version__
from emorec.service.guard import Guard, RateLimit
from emorec.service.problems import add_errors, add_problems
from emorec.service.routes import ROUTES
from emorec.service.schemas import Problem
from emorec.service.serving import Serving
from emorec.service.settings import Settings
from emorec.service.store import StoreError

__all__ = ["Settings", "app_of_environment", "create_app"]

_PARENT_CHECKED_EVERY = 0.5  # seconds


def create_app(settings: Settings) -> FastAPI:
    """The application.

    Raises:
        FileError: If the run is damaged or not there.
        StoreError: If the store cannot be opened.
        ValueError: If the run cannot be served, or the rate is not understood.
    """
    rate = None if settings.rate is None else RateLimit(settings.rate)
    serving = Serving(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        serving.start()
        yield
        await serving.stop()

    app = FastAPI(
        title="EmoRec",
        version=__version__,
        description="Recommendations for people who both like and dislike things.",
        lifespan=lifespan,
        responses={
            "4XX": {"model": Problem, "description": "the request is refused, and why"},
            "5XX": {"model": Problem, "description": "the service or its store fails"},
        },
    )
    app.state.serving = serving
    describe = app.openapi

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            add_problems(describe())
        return describe()

    app.openapi = described  # type: ignore[method-assign]
    add_errors(app)
    app.include_router(ROUTES)
    if settings.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.origins),
            allow_methods=["*"],
            allow_headers=["authorization", "content-type"],
        )
    app.add_middleware(Guard, metrics=serving.metrics, api_keys=settings.api_keys, rate=rate)
    return app


def app_of_environment() -> FastAPI:
    """The application of a worker, see `Settings.as_environment`."""
    _end_with_parent()
    try:
        return create_app(Settings.of_environment())
    except (OSError, StoreError, ValueError) as error:
        raise SystemExit(f"a worker cannot start, and is started again: {error}") from error


def _end_with_parent() -> None:
    """Ends this process after the one that started it, whose port would stay taken otherwise."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_PARENT_CHECKED_EVERY)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()
