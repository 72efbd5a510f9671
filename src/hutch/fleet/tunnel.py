"""The node's tunnel: connections to ports inside sandboxes.

A connection to `<sandbox id>:<port>` is one to the tunnel's Unix socket that begins with a line
`HUTCH/1 <sandbox id> <port>`, answered by `OK` or `ERR <code> <message>`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from hutch.errors import GuestUnavailable, HutchError, NodeUnavailable, PortClosed, SandboxNotRunning
from hutch.fleet.connection import Connection, Cut, Silent
from hutch.fleet.handshake import Handshake

GUEST_PORT = 49983
_MAX_LINE = 1024
_CONNECT_TIMEOUT = 15.0
_HANDSHAKE_TIMEOUT = 15.0
_FREEZE_TIMEOUT = 150.0
"""For a port of a sandbox that is just being frozen: the node answers when that is over. Longer than the runtime gives
one call of its own."""


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
    """Connect to a port inside a sandbox, after a freeze that is under way; from the moment on at which the tunnel is
    open, the connection is this protocol's. Raises `PortClosed`, `NodeUnavailable`, `SandboxNotRunning`,
    `GuestUnavailable`."""
    greeting = Handshake(f"HUTCH/1 {sandbox_id} {port}\n".encode(), b"\n", b"OK".__eq__, protocol)
    try:
        async with asyncio.timeout(_CONNECT_TIMEOUT):
            await asyncio.get_running_loop().create_unix_connection(lambda: greeting, str(socket))
        async with asyncio.timeout(_FREEZE_TIMEOUT):
            answer = await greeting.answer
    except OSError as error:  # a `TimeoutError` is one too
        greeting.abort()
        raise NodeUnavailable("the node's tunnel does not answer") from error
    except BaseException:
        greeting.abort()
        raise
    if greeting.handed_over is None:
        greeting.abort()
        raise _refusal(answer.decode(errors="replace"), sandbox_id)
    return greeting.handed_over


async def open_local_port(
    socket: Path, sandbox_id: str, token: str, port: int, protocol: Callable[[], asyncio.Protocol]
) -> asyncio.Transport:
    """The same for a port on which a program listens for its own machine only: its guest connects to it. Raises as
    `open_port`."""
    try:
        return await open_upgrade(socket, sandbox_id, token, f"/hutch/connect?port={port}", "hutch-port", protocol)
    except Refused as refused:
        if refused.answer.startswith(b"HTTP/1.1 502 "):
            raise PortClosed(f"{sandbox_id}: nothing listens on port {port} of the sandbox") from refused
        raise GuestUnavailable(f"the guest of {sandbox_id} does not connect to port {port}") from refused


class Refused(Exception):
    """The guest does not change the protocol."""

    def __init__(self, answer: bytes) -> None:
        super().__init__(answer[:_MAX_LINE])
        self.answer = answer
        """Its head, and not all of it if it is long."""


async def open_upgrade(
    socket: Path, sandbox_id: str, token: str, target: str, name: str, protocol: Callable[[], asyncio.Protocol]
) -> asyncio.Transport:
    """A connection to the guest that is no HTTP after a `POST` to this target. Raises `Refused`, and as `open_port`."""
    lines = [f"POST {target} HTTP/1.1", f"Host: {sandbox_id}", f"X-Access-Token: {token}"]
    hello = "\r\n".join([*lines, "Connection: Upgrade", f"Upgrade: {name}", "Content-Length: 0", "", ""]).encode()
    asking = Handshake(hello, b"\r\n\r\n", lambda answer: answer.startswith(b"HTTP/1.1 101 "), protocol)
    transport = await open_port(socket, sandbox_id, GUEST_PORT, lambda: asking)
    try:
        async with asyncio.timeout(_HANDSHAKE_TIMEOUT):
            answer = await asking.answer
    except TimeoutError as error:
        transport.abort()
        raise GuestUnavailable(f"the guest of {sandbox_id} does not answer") from error
    except BaseException:
        transport.abort()
        raise
    if asking.handed_over is None:
        transport.abort()
        raise Refused(answer)
    return transport


def _refusal(line: str, sandbox_id: str) -> HutchError:
    _, _, rest = line.partition(" ")
    code, _, message = rest.partition(" ")
    if code == "sandbox_not_found":
        return SandboxNotRunning(f"{sandbox_id} does not run")
    if code == "port_closed":
        return PortClosed(f"{sandbox_id}: {message}")
    return GuestUnavailable(f"{sandbox_id}: {message or code or 'no answer'}")
