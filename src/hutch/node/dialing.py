"""Connections to TCP ports inside sandboxes, made here and handed over.

Who asks on the Unix socket says `HUTCH/2 <sandbox id> <port>\\n`, and gets `ERR <code> <message>\\n`, or `OK\\n` with
the descriptor of a connection to the port: its bytes never pass through this process. The question's own connection is
the leash. While it is open a descriptor is kept here as well, by which the connection is ended when its sandbox is
frozen or dead, whoever else holds it; when it is closed, also by the end of the asker, that descriptor is given up.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import cast

from hutch.egress.unprivileged import socket_of
from hutch.network.resetting import reset_socket

_QUESTION_LIMIT = 128
_QUESTION_SECONDS = 10.0
_CONNECT_SECONDS = 10.0

_REFUSED = (errno.ECONNREFUSED, errno.ECONNRESET)


class Dialer:
    """Makes connections. `lookup` gives the address of a running sandbox, None for any other id."""

    def __init__(self, lookup: Callable[[str], str | None]) -> None:
        self._lookup = lookup
        self.uid: int
        self._server: asyncio.Server | None = None
        self._open: defaultdict[str, set[_Leash]] = defaultdict(set)
        self._asking: set[_Leash] = set()
        self._held: dict[str, asyncio.Event] = {}

    async def start(self, listener: socket.socket, uid: int) -> None:
        """Take questions from this listening Unix socket. `uid`: the user whose the connections are to the firewall,
        which lets them lead into sandboxes and nowhere else, whoever has them."""
        self.uid = uid
        self._server = await asyncio.get_running_loop().create_unix_server(lambda: _Leash(self), sock=listener)

    def drop(self, sandbox: str) -> None:
        """End all connections of a sandbox that is dead, or about to be frozen, at once."""
        for leash in list(self._open.pop(sandbox, ())):
            leash.end()

    @contextlib.contextmanager
    def holding(self, sandbox: str) -> Iterator[None]:
        """Around a freeze: its connections are ended, and new ones, as those that are just being opened, wait for the
        end of this. What reached a sandbox that stands still would only be cut as well."""
        over = self._held[sandbox] = asyncio.Event()
        for leash in list(self._open.get(sandbox, ())):
            leash.hold()
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

    async def stop(self) -> None:
        """Close the socket and end every connection."""
        if self._server is not None:
            self._server.close()
        for sandbox in list(self._open):
            self.drop(sandbox)
        for leash in list(self._asking):
            leash.end()

    def address(self, sandbox: str) -> str | None:
        """Where the sandbox is, when it runs."""
        return self._lookup(sandbox)

    def joined(self, leash: _Leash, sandbox: str | None) -> None:
        """Somebody asks (`sandbox` None), or has said for which sandbox."""
        if sandbox is None:
            self._asking.add(leash)
        else:
            self._asking.discard(leash)
            self._open[sandbox].add(leash)

    def left(self, leash: _Leash, sandbox: str | None) -> None:
        """A connection is over."""
        self._asking.discard(leash)
        if sandbox is not None and sandbox in self._open:
            self._open[sandbox].discard(leash)
            if not self._open[sandbox]:
                del self._open[sandbox]


class _Leash(asyncio.Protocol):
    """One question, and the connection that was its answer."""

    def __init__(self, dialer: Dialer) -> None:
        self._dialer = dialer
        self._transport: asyncio.Transport | None = None
        self._question = bytearray()
        self._sandbox: str | None = None
        self._port = 0
        self._connecting: asyncio.Task[None] | None = None
        self._connection: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its class
        self._dialer.joined(self, None)
        self._timer = asyncio.get_running_loop().call_later(_QUESTION_SECONDS, self.end)

    def data_received(self, data: bytes) -> None:
        if self._sandbox is not None:
            return self.end()  # there is nothing more to say
        self._question += data
        line, end, more = bytes(self._question).partition(b"\n")
        if end or len(self._question) > _QUESTION_LIMIT:
            self._read(line, well=bool(end) and not more and len(line) < _QUESTION_LIMIT)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
        if self._connecting is not None:
            self._connecting.cancel()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        self._dialer.left(self, self._sandbox)

    def end(self) -> None:
        """End the connection at once, and let go."""
        if self._connection is not None:
            reset_socket(self._connection)
        if self._transport is not None:
            self._transport.abort()

    def hold(self) -> None:
        """The sandbox is about to stand still."""
        if self._connection is not None:
            self.end()
        elif self._connecting is not None and self._sandbox is not None:
            self._connecting.cancel()
            self._connecting = asyncio.create_task(self._connect(self._sandbox, self._port))

    def _read(self, line: bytes, well: bool) -> None:
        if self._timer is not None:
            self._timer.cancel()
        words = line.decode("ascii", "replace").split(" ")
        if not well or len(words) != 3 or words[0] != "HUTCH/2" or not _is_port(words[2]):
            return self._refuse("invalid_request", "the question is one line: HUTCH/2 <sandbox id> <port>")
        if self._dialer.address(words[1]) is None:
            return self._refuse("sandbox_not_found", "no such sandbox runs on this node")
        self._sandbox, self._port = words[1], int(words[2])
        self._dialer.joined(self, self._sandbox)
        self._connecting = asyncio.create_task(self._connect(self._sandbox, self._port))

    async def _connect(self, sandbox: str, port: int) -> None:
        await self._dialer.free(sandbox)
        address = self._dialer.address(sandbox)
        if address is None:
            return self._refuse("sandbox_not_found", "no such sandbox runs on this node")
        made = socket_of(self._dialer.uid, socket.SOCK_STREAM)
        try:
            made.setblocking(False)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with asyncio.timeout(_CONNECT_SECONDS):
                await asyncio.get_running_loop().sock_connect(made, (address, port))
            self._hand_over(made)
        except TimeoutError:
            self._refuse("guest_unavailable", "the sandbox does not answer")
        except OSError as error:
            if error.errno in _REFUSED:
                return self._refuse("port_closed", f"nothing listens on port {port} of the sandbox")
            self._refuse("guest_unavailable", f"the sandbox cannot be reached: {error.strerror}")
        finally:
            if self._connection is not made:
                made.close()

    def _hand_over(self, made: socket.socket) -> None:
        """Raises `OSError`."""
        if self._transport is None:
            return
        # No transport of a loop sends descriptors. Nothing has been written to this one, so there is room.
        descriptor = os.dup(self._transport.get_extra_info("socket").fileno())
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=descriptor) as asker:
            socket.send_fds(asker, [b"OK\n"], [made.fileno()])
        self._connection = made

    def _refuse(self, code: str, message: str) -> None:
        if self._transport is not None:
            self._transport.write(f"ERR {code} {message}\n".encode())
            self._transport.close()


def _is_port(word: str) -> bool:
    return word.isdecimal() and 0 < int(word) < 65536
