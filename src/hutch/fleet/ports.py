"""Connections to ports inside sandboxes that are their caller's alone: plain ones, through the guest, and such as leave
HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from hutch.errors import GuestUnavailable, PortClosed
from hutch.fleet.dialing import Dialer
from hutch.fleet.handshake import Handshake
from hutch.model import GUEST_PORT

_MAX_LINE = 1024
_HANDSHAKE_TIMEOUT = 15.0
_FREEZE_TIMEOUT = 150.0
"""For a port of a sandbox that is just being frozen: the node answers when that is over. Longer than the runtime gives
one call of its own."""


async def open_port(
    dialer: Dialer, sandbox_id: str, port: int, protocol: Callable[[], asyncio.Protocol]
) -> asyncio.Transport:
    """Connect to a port inside a sandbox, after a freeze that is under way. Raises `PortClosed`, `NodeUnavailable`,
    `SandboxNotRunning`, `GuestUnavailable`."""
    transport, _ = await dialer.connect(sandbox_id, port, protocol, _FREEZE_TIMEOUT)
    return transport


async def open_local_port(
    dialer: Dialer, sandbox_id: str, token: str, port: int, protocol: Callable[[], asyncio.Protocol]
) -> asyncio.Transport:
    """The same for a port on which a program listens for its own machine only: its guest connects to it. Raises as
    `open_port`."""
    try:
        return await open_upgrade(dialer, sandbox_id, token, f"/hutch/connect?port={port}", "hutch-port", protocol)
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
    dialer: Dialer, sandbox_id: str, token: str, target: str, name: str, protocol: Callable[[], asyncio.Protocol]
) -> asyncio.Transport:
    """A connection to the guest that is no HTTP after a `POST` to this target. Raises `Refused`, and as `open_port`."""
    lines = [f"POST {target} HTTP/1.1", f"Host: {sandbox_id}", f"X-Access-Token: {token}"]
    hello = "\r\n".join([*lines, "Connection: Upgrade", f"Upgrade: {name}", "Content-Length: 0", "", ""]).encode()
    asking = Handshake(hello, protocol)
    transport = await open_port(dialer, sandbox_id, GUEST_PORT, lambda: asking)
    try:
        async with asyncio.timeout(_HANDSHAKE_TIMEOUT):
            answer = await asking.answer
    except TimeoutError as error:
        transport.abort()
        raise GuestUnavailable(f"the guest of {sandbox_id} does not answer") from error
    except BaseException:
        transport.abort()
        raise
    if not asking.agreed:
        transport.abort()
        raise Refused(answer)
    return transport
