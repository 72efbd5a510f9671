"""The node's tunnel: connections to ports inside sandboxes.

A connection to `<sandbox id>:<port>` is one to the tunnel's Unix socket that begins with a line
`HUTCH/1 <sandbox id> <port>`, answered by `OK` or `ERR <code> <message>`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import cast

from hutch.errors import GuestUnavailable, HutchError, NodeUnavailable, PortClosed, SandboxNotRunning
from hutch.fleet.connection import Connection, Cut, Silent

_MAX_LINE = 1024
_CONNECT_TIMEOUT = 15.0
_HANDSHAKE_TIMEOUT = 15.0


async def connect_unix(socket: Path, factory: Callable[[], Connection]) -> Connection:
    """Connect to a Unix socket of the node's. Raises `NodeUnavailable`."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_CONNECT_TIMEOUT):
            _, connection = await loop.create_unix_connection(factory, str(socket))
    except OSError as error:  # a `TimeoutError` is one too
        raise NodeUnavailable("the node does not answer") from error
    connection.connected()
    return connection


async def connect_tunnel(socket: Path, sandbox_id: str, port: int, factory: Callable[[], Connection]) -> Connection:
    """Connect to a port inside a sandbox. Raises `NodeUnavailable`, `SandboxNotRunning`, `GuestUnavailable`."""
    connection = await connect_unix(socket, factory)
    try:
        answer = await connection.greet(f"HUTCH/1 {sandbox_id} {port}\n".encode(), _MAX_LINE, _HANDSHAKE_TIMEOUT)
    except Cut as error:
        connection.abort()
        raise NodeUnavailable("the node's tunnel hung up") from error
    except Silent as error:
        connection.abort()
        raise NodeUnavailable("the node's tunnel does not answer") from error
    except BaseException:
        connection.abort()
        raise
    if answer != b"OK\n":
        connection.abort()
        raise _refusal(answer.decode(errors="replace").strip(), sandbox_id)
    return connection


async def open_port(
    socket: Path, sandbox_id: str, port: int, protocol: Callable[[], asyncio.Protocol]
) -> asyncio.Transport:
    """Connect to a port inside a sandbox; from the moment on at which the tunnel is open, the connection is this
    protocol's. Raises `PortClosed`, `NodeUnavailable`, `SandboxNotRunning`, `GuestUnavailable`."""
    loop = asyncio.get_running_loop()
    greeting = _Greeting(f"HUTCH/1 {sandbox_id} {port}\n".encode(), protocol, loop.create_future())
    try:
        async with asyncio.timeout(_HANDSHAKE_TIMEOUT):
            await loop.create_unix_connection(lambda: greeting, str(socket))
            answer = await greeting.answer
    except OSError as error:  # a `TimeoutError` is one too
        greeting.abort()
        raise NodeUnavailable("the node's tunnel does not answer") from error
    except BaseException:
        greeting.abort()
        raise
    if greeting.handed_over is None:
        greeting.abort()
        raise _refusal(answer, sandbox_id)
    return greeting.handed_over


class _Greeting(asyncio.Protocol):
    """Says the first line, reads the answer, and hands the connection over without losing a byte."""

    def __init__(self, line: bytes, protocol: Callable[[], asyncio.Protocol], answer: asyncio.Future[str]) -> None:
        self._line = line
        self._protocol = protocol
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self.answer = answer
        self.handed_over: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its class
        self._transport.write(self._line)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\n")
        if (end < 0 and len(self._buffer) < _MAX_LINE) or self.answer.done():
            return
        line = bytes(self._buffer[:end])
        if line == b"OK" and self._transport is not None:
            self._hand_over(self._transport, bytes(self._buffer[end + 1 :]))
        self.answer.set_result(line.decode(errors="replace"))

    def connection_lost(self, error: Exception | None) -> None:
        if not self.answer.done():
            self.answer.set_exception(NodeUnavailable("the node's tunnel hung up"))

    def abort(self) -> None:
        """Nobody wants it any more."""
        if self.answer.done() and not self.answer.cancelled():
            self.answer.exception()
        if self._transport is not None:
            self._transport.abort()

    def _hand_over(self, transport: asyncio.Transport, early: bytes) -> None:
        protocol = self._protocol()
        transport.set_protocol(protocol)
        self.handed_over = transport
        protocol.connection_made(transport)
        if early:
            protocol.data_received(early)


def _refusal(line: str, sandbox_id: str) -> HutchError:
    _, _, rest = line.partition(" ")
    code, _, message = rest.partition(" ")
    if code == "sandbox_not_found":
        return SandboxNotRunning(f"{sandbox_id} does not run")
    if code == "port_closed":
        return PortClosed(f"{sandbox_id}: {message}")
    return GuestUnavailable(f"{sandbox_id}: {message or code or 'no answer'}")
