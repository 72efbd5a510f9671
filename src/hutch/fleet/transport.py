"""HTTP to the guests of a node: a pool of connections that are kept, bounded answers, typed errors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any
from urllib.parse import urlencode

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
    PortClosed,
    RequestTimeout,
)
from hutch.fleet.connection import Body, Connection, Cut, Silent
from hutch.fleet.dialing import Dialer
from hutch.fleet.pool import Exchange, Pool, framing, head_of
from hutch.fleet.ports import Refused, open_local_port, open_port, open_upgrade
from hutch.model import GUEST_PORT

__all__ = ["Answer", "Body", "GuestTransport", "HungUp"]

_MAX_ERROR = 64 << 10
_MAX_DETAIL = 2000
_MAX_IDLE = 512
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


class HungUp(GuestUnavailable):
    """The connection was cut in the middle of the call: what was asked may have been done."""


class Answer:
    """A guest's answer whose body has not been read yet. Read it to the end or close it."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self.status = exchange.status
        self.headers = exchange.headers

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body as it comes. Raises `GuestUnavailable` when the guest hangs up in the middle."""
        try:
            while data := await self._exchange.read():
                yield data
        except Cut as error:
            raise HungUp("the sandbox's guest hung up") from error
        except Silent as error:
            raise GuestUnavailable("the sandbox's guest went silent") from error
        finally:
            self._exchange.close()

    async def body(self, limit: int) -> bytes:
        """The whole body. Raises `GuestUnavailable` when it is longer than `limit`."""
        found = bytearray()
        async with aclosing(self.chunks()) as chunks:
            async for chunk in chunks:
                found += chunk
                if len(found) > limit:
                    raise GuestUnavailable("the sandbox's guest answered at too great length")
        return bytes(found)

    async def aclose(self) -> None:
        self._exchange.close()


class GuestTransport:
    """The connections to all guests of one node."""

    def __init__(self, dialer: Dialer) -> None:
        self._dialer = dialer
        self._pool = Pool(self._connect, _MAX_IDLE)

    async def open(
        self,
        sandbox_id: str,
        token: str,
        method: str,
        path: str,
        *,
        port: int = GUEST_PORT,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        body: Body = None,
        length: int | None = None,
        read_timeout: float = 30.0,
    ) -> Answer:
        """Send a request; the answer once its head has come. Raises what the guest's error stands for. (The answer to
        a `HEAD` cannot be read.) `port`: of another program of the template's that is spoken to as the guest is."""
        shown = [("X-Access-Token", token)] if port == GUEST_PORT else []  # nobody else's affair
        lines = [("Host", sandbox_id), *shown, framing(body, length), *(headers or {}).items()]
        try:
            exchange = await self._pool.exchange(
                sandbox_id if port == GUEST_PORT else f"{sandbox_id}:{port}",
                head_of(method, path, query, lines),
                body,
                length=length,
                again=method == "GET",
                write_timeout=_WRITE_TIMEOUT,
                read_timeout=read_timeout,
            )
        except Cut as error:
            raise HungUp(f"the guest of {sandbox_id} hung up") from error
        except Silent as error:
            raise GuestUnavailable(f"the guest of {sandbox_id} does not answer") from error
        answer = Answer(exchange)
        if answer.status >= 400:
            raise _error(answer.status, await answer.body(_MAX_ERROR), path)
        return answer

    async def reach(self, sandbox_id: str) -> None:
        """Connect ahead of the next call. Raises what that would."""
        try:
            await self._pool.ahead(sandbox_id)
        except (Cut, Silent) as error:
            raise GuestUnavailable(f"the guest of {sandbox_id} does not answer") from error

    async def connect(
        self, sandbox_id: str, token: str, port: int, protocol: Callable[[], asyncio.Protocol]
    ) -> asyncio.Transport:
        """A connection to a port that is its caller's alone, also where a program listens for its own machine only.
        Raises as `open_port`."""
        try:
            return await open_port(self._dialer, sandbox_id, port, protocol)
        except PortClosed:
            return await open_local_port(self._dialer, sandbox_id, token, port, protocol)

    async def attach(
        self, sandbox_id: str, token: str, volume: str, path: str, protocol: Callable[[], asyncio.Protocol]
    ) -> asyncio.Transport:
        """A connection on which the sandbox's kernel asks for the files of a volume that is mounted at a path; it is
        mounted first, unless it is already. Raises `Conflict` where that cannot be done, and as `open_port`."""
        target = f"/hutch/volumes?{urlencode({'path': path, 'volume': volume})}"
        try:
            return await open_upgrade(self._dialer, sandbox_id, token, target, "hutch-volume", protocol)
        except Refused as refused:
            if refused.answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 409 ")):
                raise Conflict(f"nothing can be mounted at {path} in {sandbox_id}") from refused
            raise GuestUnavailable(f"the guest of {sandbox_id} mounts no volume at {path}") from refused

    async def aclose(self) -> None:
        await self._pool.aclose()

    async def _connect(self, key: str, factory: Callable[[], Connection]) -> Connection:
        sandbox_id, _, port = key.partition(":")
        _, made = await self._dialer.connect(sandbox_id, int(port or GUEST_PORT), factory, _CONNECT_TIMEOUT)
        made.connected()
        return made


def _error(status: int, body: bytes, path: str) -> HutchError:
    try:
        problem = json.loads(body)
    except (ValueError, RecursionError):
        problem = {"message": body[:_MAX_DETAIL].decode(errors="replace")}
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
