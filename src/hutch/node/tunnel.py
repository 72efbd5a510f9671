"""The tunnel: raw bytes between a client on the Unix socket and a TCP port inside a sandbox.

The client sends `HUTCH/1 <sandbox id> <port>\\n`, gets `OK\\n` or `ERR <code> <message>\\n`, and from then on the two
ends are spliced: back-pressure and half-close pass through, and the abort of one side aborts the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import select
import socket
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import cast

from hutch.network.resetting import reset

_GREETING_LIMIT = 128
_EARLY_LIMIT = 1 << 20
"""Bytes a client may send before the sandbox's port answers."""
_GREETING_SECONDS = 10.0
_CONNECT_SECONDS = 10.0
_HIGH_WATER = 1 << 20
_LOOK_GONE_SECONDS = 15.0

_REFUSED = (errno.ECONNREFUSED, errno.ECONNRESET)


class Tunnel:
    """Splices connections. `lookup` gives the address of a running sandbox, None for any other id."""

    def __init__(self, lookup: Callable[[str], str | None]) -> None:
        self._lookup = lookup
        self._server: asyncio.Server | None = None
        self._open: defaultdict[str, set[_Client]] = defaultdict(set)
        self._greeting: set[_Client] = set()
        self._held: dict[str, asyncio.Event] = {}

    async def start(self, listener: socket.socket) -> None:
        """Take connections from this listening Unix socket."""
        self._server = await asyncio.get_running_loop().create_unix_server(lambda: _Client(self), sock=listener)

    def drop(self, sandbox: str) -> None:
        """End all connections of a sandbox that is dead, or about to be frozen, at once."""
        for client in list(self._open.pop(sandbox, ())):
            client.end()

    @contextlib.contextmanager
    def holding(self, sandbox: str) -> Iterator[None]:
        """Around a freeze: its connections are ended, and new ones, as those that are just being opened, wait for the
        end of this. What reached a sandbox that stands still would only be cut as well."""
        over = self._held[sandbox] = asyncio.Event()
        for client in list(self._open.get(sandbox, ())):
            client.hold()
        try:
            yield
        finally:
            del self._held[sandbox]
            over.set()

    async def free(self, sandbox: str) -> None:
        """Return when nobody holds it."""
        while (over := self._held.get(sandbox)) is not None:
            await over.wait()

    def connections(self, sandbox: str) -> int:
        """Connections open to a sandbox."""
        return len(self._open.get(sandbox, ()))

    def buffered(self, sandbox: str) -> int:
        """Bytes held for clients of a sandbox that do not read."""
        return sum(client.held() for client in self._open.get(sandbox, ()))

    async def stop(self) -> None:
        """Close the socket and abort every connection."""
        if self._server is not None:
            self._server.close()
        for sandbox in list(self._open):
            self.drop(sandbox)
        for client in list(self._greeting):
            client.abort()

    def address(self, sandbox: str) -> str | None:
        """Where the sandbox is, when it runs."""
        return self._lookup(sandbox)

    def joined(self, client: _Client, sandbox: str | None) -> None:
        """A connection began (`sandbox` None) or said which sandbox it is for."""
        if sandbox is None:
            self._greeting.add(client)
        else:
            self._greeting.discard(client)
            self._open[sandbox].add(client)

    def left(self, client: _Client, sandbox: str | None) -> None:
        """A connection is over."""
        self._greeting.discard(client)
        if sandbox is not None and sandbox in self._open:
            self._open[sandbox].discard(client)
            if not self._open[sandbox]:
                del self._open[sandbox]


class _End(asyncio.Protocol):
    """One end of a spliced connection; `peer` is the other."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.peer: _End | None = None
        self.finished = False
        """It has sent its last byte."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its class
        self.transport.set_write_buffer_limits(high=_HIGH_WATER)

    def data_received(self, data: bytes) -> None:
        peer = self.peer.transport if self.peer else None
        if peer is not None:
            peer.write(data)

    def eof_received(self) -> bool:
        self.finished = True
        peer = self.peer
        if peer is None or peer.transport is None:
            return False
        if peer.finished:
            peer.transport.close()  # writes out what is buffered, then closes; our end follows in its connection_lost
            return True
        with contextlib.suppress(OSError, RuntimeError):
            peer.transport.write_eof()
        return True

    def pause_writing(self) -> None:
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        peer, self.peer, self.transport = self.peer, None, None
        if peer is None or peer.transport is None:
            return
        if error is None and self.finished:
            peer.transport.close()  # what it sent still arrives
        else:
            peer.transport.abort()

    def held(self) -> int:
        """Bytes taken from one side and not yet given to the other."""
        ends = (self, self.peer)
        return sum(
            end.transport.get_write_buffer_size() for end in ends if end is not None and end.transport is not None
        )

    def abort(self) -> None:
        """End both sides at once."""
        if self.transport is not None:
            self.transport.abort()


class _Client(_End):
    """The client's end: reads the greeting, then connects to the sandbox."""

    def __init__(self, tunnel: Tunnel) -> None:
        super().__init__()
        self._tunnel = tunnel
        self._sandbox: str | None = None
        self._early = bytearray()
        self._greeted = False
        self._port = 0
        self._connecting: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._tunnel.joined(self, None)
        self._timer = asyncio.get_running_loop().call_later(_GREETING_SECONDS, self.abort)

    def data_received(self, data: bytes) -> None:
        if self.peer is not None:
            super().data_received(data)
            return
        self._early += data
        if not self._greeted:
            self._read_greeting()
        elif len(self._early) > _EARLY_LIMIT and self.transport is not None:
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        if not self._greeted:
            return False
        self._look_gone()
        if self.peer is None:
            self.finished = True  # passed on when the sandbox's port answers
            return True
        return super().eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._connecting is not None:
            self._connecting.cancel()
        self._tunnel.left(self, self._sandbox)
        super().connection_lost(error)

    def end(self) -> None:
        """End both sides at once."""
        if self.peer is not None and self.peer.transport is not None:
            reset(self.peer.transport)
        self.abort()

    def hold(self) -> None:
        """The sandbox is about to stand still."""
        if self.peer is not None:
            self.end()
        elif self._connecting is not None and self._sandbox is not None:
            self._connecting.cancel()
            self._connecting = asyncio.create_task(self._connect(self._sandbox, self._port))

    def _look_gone(self) -> None:
        """A client that has closed looks like one that has only finished sending, until something is written to it.
        The socket knows; without asking, a silent port would keep the connection for ever."""
        if self.transport is None:
            return
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket").fileno(), 0)
        if any(state & select.POLLHUP for _, state in poll.poll(0)):
            self.transport.abort()
        else:
            self._timer = asyncio.get_running_loop().call_later(_LOOK_GONE_SECONDS, self._look_gone)

    def _read_greeting(self) -> None:
        end = self._early.find(b"\n", 0, _GREETING_LIMIT)
        if end < 0:
            if len(self._early) >= _GREETING_LIMIT:
                self._refuse("invalid_request", "the first line must be: HUTCH/1 <sandbox id> <port>")
            return
        words = bytes(self._early[:end]).decode("ascii", "replace").split(" ")
        del self._early[: end + 1]
        self._greeted = True
        if self._timer is not None:
            self._timer.cancel()
        if len(words) != 3 or words[0] != "HUTCH/1" or not (words[2].isdecimal() and 0 < int(words[2]) < 65536):
            return self._refuse("invalid_request", "the first line must be: HUTCH/1 <sandbox id> <port>")
        if self._tunnel.address(words[1]) is None:
            return self._refuse("sandbox_not_found", "no such sandbox runs on this node")
        self._sandbox = words[1]
        self._tunnel.joined(self, words[1])
        self._port = int(words[2])
        self._connecting = asyncio.create_task(self._connect(words[1], self._port))

    async def _connect(self, sandbox: str, port: int) -> None:
        await self._tunnel.free(sandbox)
        address = self._tunnel.address(sandbox)
        if address is None:
            return self._refuse("sandbox_not_found", "no such sandbox runs on this node")
        loop = asyncio.get_running_loop()
        end = _End()
        end.peer = self
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                await loop.create_connection(lambda: end, address, port)
        except TimeoutError:
            return self._refuse("guest_unavailable", "the sandbox does not answer")
        except OSError as error:
            if error.errno in _REFUSED:
                return self._refuse("port_closed", f"nothing listens on port {port} of the sandbox")
            return self._refuse("guest_unavailable", f"the sandbox cannot be reached: {error.strerror}")
        self._splice(end)

    def _splice(self, end: _End) -> None:
        if self.transport is None or end.transport is None:
            end.abort()
            return
        self.transport.write(b"OK\n")
        early, self._early = bytes(self._early), bytearray()
        self.peer = end
        if early:
            end.transport.write(early)
        if self.finished:
            end.transport.write_eof()
        else:
            self.transport.resume_reading()

    def _refuse(self, code: str, message: str) -> None:
        if self.transport is not None:
            self.transport.write(f"ERR {code} {message}\n".encode())
            self.transport.close()
