"""Errors as problem+json (RFC 9457)."""

from __future__ import annotations

import http
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from emorec.service.schemas import Problem
from emorec.service.store import StoreError

__all__ = ["add_errors", "add_problems", "problem"]

_MEDIA_TYPE = "application/problem+json"


def problem(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """The answer to a request that failed."""
    body = Problem(title=http.HTTPStatus(status).phrase, status=status, detail=detail)
    return JSONResponse(body.model_dump(), status, headers, media_type=_MEDIA_TYPE)


def add_problems(schema: dict[str, Any]) -> None:
    """Puts the right media type of errors into a description (OpenAPI) of an application."""
    for methods in schema["paths"].values():
        for operation in methods.values():
            for status, answer in operation["responses"].items():
                if status[0] in "45":
                    (content,) = answer["content"].values()
                    answer["content"] = {_MEDIA_TYPE: content}


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

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> Response:
        return problem(500, "an error of the service; its log has the details")

    @app.exception_handler(StoreError)
    async def no_store(_: Request, error: StoreError) -> Response:
        return problem(503, str(error), {"retry-after": "1"})
