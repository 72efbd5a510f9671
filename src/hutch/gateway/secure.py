"""The port with TLS: connections are taken, shake hands within a bound of time, and are served by host name."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress

from hutch.gateway.routing import Names
from hutch.tls import FreshContext

HANDSHAKE_SECONDS = 10.0
_SHUTDOWN_SECONDS = 5.0
_BREATH_SECONDS = 0.1


class SecureDoor:
    """The listener, what it serves with, and where the API behind it listens."""

    def __init__(self, listener: socket.socket, context: FreshContext, names: Names, api: socket.socket) -> None:
        self.names = names
        self._listener = listener
        self._context = context
        self._api = api
        self._shaking: set[asyncio.Task[None]] = set()

    @property
    def shaking(self) -> int:
        """Connections that do not speak yet."""
        return len(self._shaking)

    async def serve(self, make: Callable[[], asyncio.Protocol], room: Callable[[], bool]) -> None:
        """Take connections, as long as there is room, until cancelled."""
        loop = asyncio.get_running_loop()
        self._listener.setblocking(False)
        fresh = asyncio.create_task(self._context.keep_fresh())
        try:
            while True:
                try:
                    sock, _ = await loop.sock_accept(self._listener)
                except OSError:  # no more descriptors, or a connection that was gone before it was taken
                    await asyncio.sleep(_BREATH_SECONDS)
                    continue
                if not room():
                    sock.close()
                    continue
                task = asyncio.create_task(self._shake(sock, make))
                self._shaking.add(task)
                task.add_done_callback(self._shaking.discard)
        finally:
            fresh.cancel()
            for task in self._shaking:
                task.cancel()
            self._listener.close()

    async def connect_api(self, make: Callable[[], asyncio.Protocol]) -> None:
        """A connection to the API, as from this machine. Raises `OSError`."""
        host, port = self._api.getsockname()[:2]
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        await asyncio.get_running_loop().create_connection(make, host, port)

    async def _shake(self, sock: socket.socket, make: Callable[[], asyncio.Protocol]) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with suppress(OSError):  # also what TLS finds wrong, and a handshake that takes too long
            await asyncio.get_running_loop().connect_accepted_socket(
                make,
                sock,
                ssl=self._context.current,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=_SHUTDOWN_SECONDS,
            )
