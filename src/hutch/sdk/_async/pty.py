"""A terminal in a sandbox, over a WebSocket; a connection that is lost is made again and nothing shows twice."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, Self
from urllib.parse import urlencode

from websockets.exceptions import ConnectionClosed, WebSocketException

from hutch.errors import HutchError, ServerUnavailable, from_problem
from hutch.model import ExecState, LimitBreach
from hutch.sdk._async.following import AsyncPatience
from hutch.sdk._async.transport import CONNECT_TIMEOUT, AsyncTransport, at
from hutch.sdk._shim import aio
from hutch.sdk.wire import parse

_DROPPED = (ConnectionClosed, WebSocketException, OSError, TimeoutError)


class AsyncPty:
    """`async for data in pty` gives what the terminal shows, until its process ends; `state` is known then.

    As a context manager it ends the process when the block is left; `detach` leaves it running.
    """

    def __init__(self, transport: AsyncTransport, sandbox_id: str, query: dict[str, Any]) -> None:
        self._transport = transport
        self._path = at("sandboxes", sandbox_id, "pty")
        self._query = query
        self._socket: aio.Socket | None = None
        self._offset = int(query.get("from", 0))
        self._since = 0  # bytes seen since `_offset`
        self._skip = 0  # bytes that come again after a reconnect
        self._detached = False
        self._closed = False
        self.state: ExecState | None = None
        self.breaches: list[LimitBreach] = []

    @property
    def id(self) -> str | None:
        """The exec's id, to come back to with `Sandbox.pty(attach=...)`."""
        return self.state.id if self.state else None

    @property
    def exit_code(self) -> int | None:
        return self.state.exit_code if self.state else None

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    async def open(self) -> None:
        """Connect; the process has been started when this returns."""
        self._closed = False
        await self._connect(AsyncPatience())

    async def write(self, data: bytes | str) -> None:
        """Type. What is typed while the connection is being made again is lost, as on any terminal line."""
        await self._send(data.encode() if isinstance(data, str) else data)

    async def resize(self, cols: int, rows: int) -> None:
        """The terminal has another size."""
        self._query |= {"cols": cols, "rows": rows}
        await self._send(json.dumps({"type": "resize", "cols": cols, "rows": rows}))

    async def kill(self) -> None:
        """End the process; the iteration ends with it."""
        await self._send(json.dumps({"type": "close"}))

    async def detach(self) -> None:
        """Close the connection and leave the process running."""
        self._detached = True
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connection. The process is ended, unless it was detached."""
        self._closed = True
        socket, self._socket = self._socket, None
        if socket is None:
            return
        try:
            if not self._detached and (self.state is None or self.state.running):
                await socket.send(json.dumps({"type": "close"}))
        except _DROPPED:
            pass
        finally:
            await socket.close()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        patience = AsyncPatience()
        while self._socket is not None:
            try:
                message = await self._socket.recv()
            except _DROPPED as error:
                if self._socket is None or not (self.state and self.state.running):
                    return
                await patience.after(ServerUnavailable(f"the terminal's connection was lost: {error}"))
                await self._connect(patience)
                continue
            patience.progress()
            if isinstance(message, bytes):
                if fresh := self._fresh(message):
                    yield fresh
            elif self._hear(json.loads(message)):
                return

    async def _connect(self, patience: AsyncPatience) -> None:
        """Open the socket and wait for `start`, as often as it takes."""
        while True:
            query = dict(self._query)
            if self.id:
                query |= {"exec": self.id, "from": self._offset}
                self._skip = self._since
            url = f"{self._transport.socket_url(self._path)}?{urlencode(query)}"
            try:
                self._socket = await self._start(url)
                if self._closed:  # while the connection was being made again, by who does not read
                    await self.aclose()
                return
            except _DROPPED as error:
                failure: HutchError = ServerUnavailable(f"no terminal from {self._transport.server.url}: {error}")
            except HutchError as error:
                failure = error
            if not self.id:
                raise failure
            await patience.after(failure)

    async def _start(self, url: str) -> aio.Socket:
        """A connection on which `start` was heard. One that brings anything else is closed: nobody else holds it."""
        socket = await aio.open_socket(url, self._transport.server.api_key, CONNECT_TIMEOUT)
        try:
            self._hear(json.loads(await socket.recv()))
        except BaseException:  # also when the caller waits no longer
            await socket.close()
            raise
        return socket

    async def _send(self, message: bytes | str) -> None:
        try:
            if self._socket is not None:
                await self._socket.send(message)
        except ConnectionClosed:
            pass  # the reading side notices, and makes the connection again

    def _fresh(self, data: bytes) -> bytes:
        """What of `data` has not been given before."""
        again = min(self._skip, len(data))
        self._skip -= again
        self._since += len(data) - again
        return data[again:]

    def _hear(self, message: dict[str, Any]) -> bool:
        """Take a text message; whether it was the last."""
        if message.get("type") == "error":
            raise from_problem(message.get("error") or {})
        if "offset" in message and not self._skip:
            self._offset, self._since = int(message["offset"]), 0
        if message.get("type") == "limit":
            self.breaches.append(parse(LimitBreach, message.get("breach")))
        if "exec" in message:
            self.state = parse(ExecState, message["exec"])
        return message.get("type") == "exit"
