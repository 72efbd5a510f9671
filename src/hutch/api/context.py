"""The outermost layer: a request id on every answer, one log line a request, and no error without an answer."""

from __future__ import annotations

import re
import secrets
import time

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hutch.api.problems import ProblemResponse
from hutch.errors import InternalError

_log = structlog.get_logger(__name__)
_GIVEN = re.compile(r"[A-Za-z0-9._-]{1,64}")


class RequestContext:
    """Pure ASGI: it stands in the way of every byte of every stream."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        request_id = _request_id(Headers(scope=scope))
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0
        started = time.perf_counter()

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        log = _log.bind(request_id=request_id, method=scope.get("method", "WS"), path=scope["path"])
        try:
            await self._app(scope, receive, answer)
        except ClientDisconnect:
            log.debug("the client went away")
        except Exception:
            log.exception("internal error")
            if scope["type"] == "http" and not status:
                await ProblemResponse(_internal(request_id))(scope, receive, answer)
            elif scope["type"] == "websocket":
                raise  # the protocol closes it with 1011
            # A started answer is left unfinished: uvicorn cuts the connection, and the client sees that it was cut.
        log.debug("request", status=status, ms=round((time.perf_counter() - started) * 1000, 1))


def _internal(request_id: str) -> InternalError:
    return InternalError("something went wrong inside Hutch", request_id=request_id)


def _request_id(headers: Headers) -> str:
    given = headers.get("x-request-id", "")
    return given if _GIVEN.fullmatch(given) else "req_" + secrets.token_hex(8)
