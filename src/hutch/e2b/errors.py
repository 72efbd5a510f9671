"""Errors as E2B's clients read them: `{"code": <status>, "message": <text>}`, with statuses that they know."""

from __future__ import annotations

from http import HTTPStatus

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from hutch.errors import (
    HutchError,
    IdempotencyConflict,
    InvalidRequest,
    LimitReached,
    NotFound,
    UnknownTemplate,
)


class NotOffered(HutchError):
    """A call, or a field of one, that this server has no implementation of. Better than to act as if it had."""

    code = "not_offered"
    http_status = 501


class PausedAlready(HutchError):
    """E2B's clients take this status for `it was paused before`."""

    code = "paused_already"
    http_status = 409


def error_answer(status: int, message: str, retry: bool = False) -> JSONResponse:
    """One error. Clients repeat what is not said to be final."""
    headers = {} if retry else {"Should-Retry": "false"}
    return JSONResponse({"code": status, "message": message}, status, headers)


async def hutch_error(_: Request, error: Exception) -> JSONResponse:
    """One of ours."""
    assert isinstance(error, HutchError)
    return error_answer(status_of(error), message_of(error), error.retryable)


async def invalid(_: Request, error: Exception) -> JSONResponse:
    """A body that is not what the call takes. Its values are not repeated: they may be secrets."""
    assert isinstance(error, ValidationError)
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])[:128] or "body"
    return error_answer(400, f"{where}: {first['msg']}")


async def http_error(_: Request, error: Exception) -> JSONResponse:
    """The router's own: no such path, or no such method on it."""
    assert isinstance(error, HTTPException)
    return error_answer(error.status_code, HTTPStatus(error.status_code).phrase)


async def unexpected(_: Request, error: Exception) -> JSONResponse:
    """Our own fault; whoever called us logs it."""
    return error_answer(500, "something went wrong inside Hutch: its log says more")


def status_of(error: HutchError) -> int:
    """The status that E2B's API has for it."""
    if isinstance(error, UnknownTemplate | NotFound):
        return 404
    if isinstance(error, IdempotencyConflict):
        return 422
    if isinstance(error, InvalidRequest | LimitReached):
        return error.http_status
    return {507: 503, 413: 400}.get(error.http_status, error.http_status)


def message_of(error: HutchError) -> str:
    """What happened, and the way out."""
    return str(error)
