"""Errors as problem+json (RFC 9457)."""

from __future__ import annotations

import http

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from emorec.service.schemas import Problem
from emorec.service.store import StoreError

__all__ = ["add_errors", "problem"]


def problem(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """The answer to a request that failed."""
    body = Problem(title=http.HTTPStatus(status).phrase, status=status, detail=detail)
    return JSONResponse(body.model_dump(), status, headers, media_type="application/problem+json")


def add_errors(app: FastAPI) -> None:
    """Answers every error of an application so."""

    @app.exception_handler(StarletteHTTPException)
    async def failed(_: Request, error: StarletteHTTPException) -> Response:
        return problem(error.status_code, str(error.detail), dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(each) for each in first["loc"][1:]) or str(first["loc"][0])
        return problem(422, f"{where}: {first['msg']}")

    @app.exception_handler(StoreError)
    async def no_store(_: Request, error: StoreError) -> Response:
        return problem(503, str(error), {"retry-after": "1"})
