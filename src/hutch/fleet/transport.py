"""HTTP to guests through a node's tunnel: a pool of connections that are kept, bounded answers, typed errors."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpcore

from hutch.errors import (
    AlreadyExists,
    Conflict,
    DiskFull,
    ExecNotFound,
    FileMissing,
    GuestUnavailable,
    HutchError,
    InvalidPath,
    InvalidRequest,
    LimitReached,
    NotFound,
    PayloadTooLarge,
    RequestTimeout,
)
from hutch.fleet.tunnel import TunnelBackend

GUEST_PORT = 49983
_MAX_ERROR = 64 << 10
_MAX_DETAIL = 2000
_CONNECT_TIMEOUT = 15.0
_WRITE_TIMEOUT = 300.0
"""For one piece of an upload: a guest that has stopped reading for so long is stuck."""

_CODES: dict[str, type[HutchError]] = {
    cls.code: cls
    for cls in (
        AlreadyExists,
        Conflict,
        DiskFull,
        ExecNotFound,
        FileMissing,
        InvalidPath,
        InvalidRequest,
        LimitReached,
        NotFound,
        PayloadTooLarge,
        RequestTimeout,
    )
}
"""What a guest may say. It is hostile: it may not, for example, make our API answer 401."""
_CONNECT_CODES: dict[str, type[HutchError]] = {
    "not_found": FileMissing,
    "invalid_argument": InvalidPath,
    "already_exists": AlreadyExists,
    "resource_exhausted": DiskFull,
    "permission_denied": InvalidPath,
    "unauthenticated": InvalidRequest,
}
"""The same for the Connect calls (`/filesystem.Filesystem/...`)."""
_STATUS: dict[int, type[HutchError]] = {404: NotFound, 409: Conflict, 413: PayloadTooLarge, 507: DiskFull}

Body = bytes | AsyncIterator[bytes] | None


class Answer:
    """A guest's answer whose body has not been read yet. Read it to the end or close it."""

    def __init__(self, response: httpcore.Response) -> None:
        self._response = response
        self.status = response.status
        self.headers = {name.lower().decode("latin-1"): value.decode("latin-1") for name, value in response.headers}

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body as it comes. Raises `GuestUnavailable` when the guest hangs up in the middle."""
        try:
            async for chunk in self._response.aiter_stream():
                yield chunk
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            raise GuestUnavailable("the sandbox's guest hung up") from error
        finally:
            await self._response.aclose()

    async def body(self, limit: int) -> bytes:
        """The whole body. Raises `GuestUnavailable` when it is longer than `limit`."""
        found = bytearray()
        async for chunk in self.chunks():
            found += chunk
            if len(found) > limit:
                await self.aclose()
                raise GuestUnavailable("the sandbox's guest answered at too great length")
        return bytes(found)

    async def aclose(self) -> None:
        await self._response.aclose()


class GuestTransport:
    """The connections to all guests of one node."""

    def __init__(self, tunnel_socket: Path) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            max_connections=4096,
            max_keepalive_connections=512,
            keepalive_expiry=30.0,
            network_backend=TunnelBackend(tunnel_socket),
        )

    async def open(
        self,
        sandbox_id: str,
        token: str,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        body: Body = None,
        length: int | None = None,
        read_timeout: float = 30.0,
    ) -> Answer:
        """Send a request; the answer once its head has come. Raises what the guest's error stands for."""
        url = httpcore.URL(scheme=b"http", host=sandbox_id.encode(), port=GUEST_PORT, target=_target(path, query or {}))
        timeout = {"connect": _CONNECT_TIMEOUT, "write": _WRITE_TIMEOUT, "read": read_timeout, "pool": None}
        request = httpcore.Request(
            method,
            url,
            headers=[
                ("Host", sandbox_id),
                ("X-Access-Token", token),
                *_framing(body, length),
                *(headers or {}).items(),
            ],
            content=body,
            extensions={"timeout": timeout},
        )
        try:
            answer = Answer(await self._pool.handle_async_request(request))
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            raise GuestUnavailable(f"the guest of {sandbox_id} hung up") from error
        except httpcore.TimeoutException as error:
            raise GuestUnavailable(f"the guest of {sandbox_id} does not answer") from error
        if answer.status >= 400:
            raise _error(answer.status, await answer.body(_MAX_ERROR), path)
        return answer

    async def aclose(self) -> None:
        await self._pool.aclose()


def _target(path: str, query: Mapping[str, Any]) -> bytes:
    given = {key: value for key, value in query.items() if value is not None}
    return (f"{path}?{urlencode(given)}" if given else path).encode()


def _framing(body: Body, length: int | None) -> list[tuple[str, str]]:
    if body is None or isinstance(body, bytes):
        length = len(body or b"")
    return [("Content-Length", str(length))] if length is not None else [("Transfer-Encoding", "chunked")]


def _error(status: int, body: bytes, path: str) -> HutchError:
    try:
        problem = json.loads(body)
    except (ValueError, RecursionError):
        problem = {}
    if not isinstance(problem, dict):
        problem = {}
    detail = str(problem.get("message") or f"the guest answered {status}")[:_MAX_DETAIL]
    code = problem.get("code")
    known = _CONNECT_CODES if path.startswith("/filesystem.") else _CODES
    if isinstance(code, str) and code in known:
        return known[code](detail)
    if status in _STATUS:
        return _STATUS[status](detail)
    if status == 401 or status >= 500:
        return GuestUnavailable(detail)
    return InvalidRequest(detail)
