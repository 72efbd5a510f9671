"""The ways to TCP ports inside the sandboxes of one node."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

from hutch.errors import GuestUnavailable, HutchError, NodeUnavailable, PortClosed, SandboxNotRunning
from hutch.network.resetting import reset

P = TypeVar("P", bound=asyncio.Protocol)
Connected = tuple[asyncio.Transport, P]
_MAX_LINE = 1024
_REACH_SECONDS = 15.0
_FULL_PAUSE = 0.01


class Dialer(Protocol):
    """Connects to ports."""

    async def connect(self, sandbox_id: str, port: int, factory: Callable[[], P], within: float) -> Connected[P]:
        """A connection to a port inside a sandbox, after a freeze that is under way, for which it waits `within` so
        many seconds. Raises `PortClosed`, `SandboxNotRunning`, `GuestUnavailable`, `NodeUnavailable`."""


class LocalDialer:
    """Of the node on this machine. It is told `HUTCH/2 <sandbox id> <port>` on its socket, connects, and answers `OK`
    with the connection's descriptor, or `ERR <code> <message>`. From then on it is no party to what is said. That Unix
    socket is a leash: whoever of both closes it ends the connection."""

    def __init__(self, node: Path) -> None:
        self._node = node

    async def connect(self, sandbox_id: str, port: int, factory: Callable[[], P], within: float) -> Connected[P]:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as leash:
            try:
                async with asyncio.timeout(_REACH_SECONDS):
                    await self._reach(leash)
                leash.send(f"HUTCH/2 {sandbox_id} {port}\n".encode())
                async with asyncio.timeout(within):
                    line, descriptor = await _answer(leash)
            except OSError as error:  # a `TimeoutError` is one too
                raise NodeUnavailable("the node does not answer") from error
            if descriptor is None:
                raise _refusal(line.decode(errors="replace"), sandbox_id)
            given = _Given(descriptor, leash)
        try:
            transport, protocol = await loop.create_connection(factory, sock=given)
        except BaseException:
            given.close()
            raise
        given.watch(lambda: reset(transport))
        return transport, protocol

    async def _reach(self, leash: socket.socket) -> None:
        """Raises `OSError`."""
        while True:
            try:
                return leash.connect(str(self._node))
            except BlockingIOError:  # more of us ask than the node has taken yet
                await asyncio.sleep(_FULL_PAUSE)


class _Given(socket.socket):
    """A connection that the node has made. Its leash is closed with it, by whoever closes it: the node has a descriptor
    of it, and it does not end before that is closed, too."""

    def __init__(self, descriptor: int, leash: socket.socket) -> None:
        super().__init__(socket.AF_INET, socket.SOCK_STREAM, fileno=descriptor)
        self._leash = socket.socket(fileno=leash.detach())
        self._loop = asyncio.get_running_loop()

    def watch(self, ended: Callable[[], object]) -> None:
        """Call it when the node lets go of the leash: the sandbox is dead or about to be frozen, or the node is."""
        if self._leash.fileno() >= 0:
            self._loop.add_reader(self._leash.fileno(), ended)

    def close(self) -> None:
        self._let_go()
        super().close()

    def detach(self) -> int:
        """What uvloop does with the socket of a transport when it has closed the descriptor."""
        self._let_go()
        return super().detach()

    def _let_go(self) -> None:
        if self._leash.fileno() >= 0:
            self._loop.remove_reader(self._leash.fileno())
            self._leash.close()


async def _answer(leash: socket.socket) -> tuple[bytes, int | None]:
    """The node's line without its end, and what came with it. Raises `OSError`."""
    line, given = b"", None
    try:
        while not line.endswith(b"\n"):
            await _readable(leash)
            more, found, _, _ = socket.recv_fds(leash, _MAX_LINE, 1, socket.MSG_CMSG_CLOEXEC)
            given = found[0] if found else given
            line += more
            if not more or len(line) > _MAX_LINE:
                raise ConnectionError("the node hung up")
    except BaseException:
        if given is not None:
            socket.close(given)
        raise
    return line[:-1], given


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()
    loop.add_reader(sock.fileno(), _wake, waiter)
    try:
        await waiter
    finally:
        loop.remove_reader(sock.fileno())


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _refusal(line: str, sandbox_id: str) -> HutchError:
    _, _, rest = line.partition(" ")
    code, _, message = rest.partition(" ")
    if code == "sandbox_not_found":
        return SandboxNotRunning(f"{sandbox_id} does not run")
    if code == "port_closed":
        return PortClosed(f"{sandbox_id}: {message}")
    return GuestUnavailable(f"{sandbox_id}: {message or code or 'no answer'}")
