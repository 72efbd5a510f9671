"""The node's tunnel: connections to ports inside sandboxes.

A connection to `<sandbox id>:<port>` is one to the tunnel's Unix socket that begins with a line
`HUTCH/1 <sandbox id> <port>`, answered by `OK` or `ERR <code> <message>`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from hutch.errors import GuestUnavailable, HutchError, NodeUnavailable, SandboxNotRunning
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


def _refusal(line: str, sandbox_id: str) -> HutchError:
    _, _, rest = line.partition(" ")
    code, _, message = rest.partition(" ")
    if code == "sandbox_not_found":
        return SandboxNotRunning(f"{sandbox_id} does not run")
    return GuestUnavailable(f"{sandbox_id}: {message or code or 'no answer'}")
