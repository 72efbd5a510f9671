"""Every error as `application/problem+json`, whoever found it: control, the router, the parser of bodies."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from hutch.api.validation import explain
from hutch.errors import HutchError, InternalError, InvalidRequest, NodeUnavailable, RequestTimeout, Unauthorized

MEDIA_TYPE = "application/problem+json"
_DESCRIPTIONS = {404: "there is nothing at this path", 405: "this path does not know the method"}


class ProblemResponse(JSONResponse):
    """A problem as an answer."""

    media_type = MEDIA_TYPE

    def __init__(
        self, error: HutchError, *, status: int | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        problem = error.to_problem()
        if status is not None:
            problem["status"] = status
        super().__init__(problem, status or error.http_status, _headers(error) | dict(headers or {}))

    def render(self, content: object) -> bytes:
        """In ASCII: half a surrogate pair, which JSON can carry in, must not be what breaks the answer."""
        return json.dumps(content, separators=(",", ":"), default=str).encode()


def _headers(error: HutchError) -> dict[str, str]:
    if isinstance(error, Unauthorized):
        return {"WWW-Authenticate": 'Bearer realm="hutch"'}
    return {"Retry-After": "1"} if error.retryable else {}


def install(app: FastAPI) -> None:
    """Answer all expected errors. Unexpected ones are `RequestContext`'s: it knows the request's id."""
    app.add_exception_handler(HutchError, _hutch_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)


async def _hutch_error(_: Request, error: Exception) -> ProblemResponse:
    assert isinstance(error, HutchError)
    return ProblemResponse(error)


async def _validation_error(request: Request, error: Exception) -> ProblemResponse:
    assert isinstance(error, RequestValidationError)
    return ProblemResponse(explain(error.errors(), request.headers.get("content-type")))


async def _http_error(_: Request, error: Exception) -> ProblemResponse:
    """The router's own 404 and 405, and what went wrong while a body was read (FastAPI wraps that in a 400)."""
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, HutchError):
        return ProblemResponse(error.__cause__)
    known: HutchError = InvalidRequest(_DESCRIPTIONS.get(error.status_code, "the body could not be read"))
    known.hint = "The API's paths and bodies are in /openapi.json."
    return ProblemResponse(known, status=error.status_code, headers=error.headers)


def documented(*errors: type[HutchError]) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that may answer with these, beside those that every route may answer with."""
    every: tuple[type[HutchError], ...] = (InvalidRequest, Unauthorized, NodeUnavailable, RequestTimeout, InternalError)
    by_status: dict[int | str, list[str]] = {}
    for error in (*errors, *every):
        by_status.setdefault(error.http_status, []).append(error.code)
    return {status: _documented(codes) for status, codes in sorted(by_status.items(), key=lambda item: int(item[0]))}


def _documented(codes: Iterable[str]) -> dict[str, Any]:
    names = ", ".join(f"`{code}`" for code in dict.fromkeys(codes))
    schema = {"$ref": "#/components/schemas/Problem"}
    return {"description": f"A problem: {names}.", "content": {MEDIA_TYPE: {"schema": schema}}}
