"""The gateway's listener, and what its connections ask of the rest of Hutch."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any

import structlog

from hutch.control.audit import guest_call
from hutch.control.ports import Door, Ports
from hutch.control.service import Control
from hutch.control.stdin_log import Source, StdinLog
from hutch.errors import GuestUnavailable, PortClosed, SandboxNotFound, SandboxNotRunning
from hutch.gateway import refusals
from hutch.gateway.access import Entry, check_access, lacks_token, signed_by
from hutch.gateway.inbound import Inbound
from hutch.gateway.inner import NoTls, speak_tls
from hutch.gateway.message import Room, user_of
from hutch.gateway.outbound import Outbound
from hutch.gateway.refusals import Refusal
from hutch.gateway.routing import Names, Place
from hutch.gateway.secure import SecureDoor
from hutch.http1.heads import Request
from hutch.model import GUEST_PORT

log = structlog.get_logger("hutch.gateway")

_TICK = 1.0


class Gateway:
    """Listens on this socket between `start` and `stop`, and at the door with TLS; has at most so many connections at
    once."""

    def __init__(self, control: Control, listener: socket.socket, most: int, door: SecureDoor | None = None) -> None:
        self._control = control
        self._most = most
        self.listener = listener
        self._server: asyncio.Server | None = None
        self._connections: set[Inbound] = set()
        self._door = door
        self._tasks: list[asyncio.Task[None]] = []
        self.room = Room()

    @property
    def names(self) -> Names | None:
        """Those that lead to the door with TLS, if there is one."""
        return self._door.names if self._door is not None else None

    @property
    def ports(self) -> Ports:
        """The way to all ports."""
        return self._control.ports

    @property
    def stdin_log(self) -> StdinLog:
        """Counts what is sent to processes."""
        return self._control.stdin_log

    async def start(self) -> None:
        """Take connections."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Inbound(self), sock=self.listener)
        self._tasks = [asyncio.create_task(self._sweep()), asyncio.create_task(self._recheck())]
        if (door := self._door) is not None:
            room = lambda: len(self._connections) + door.shaking < self._most  # noqa: E731
            self._tasks.append(asyncio.create_task(door.serve(lambda: Inbound(self, door.names), room)))

    async def stop(self) -> None:
        """Cut all connections: whoever has one sees that it was cut."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in list(self._connections):
            connection.reset()
        await asyncio.sleep(0)

    def joined(self, connection: Inbound) -> bool:
        """It is open. False when it is one too many."""
        self._connections.add(connection)
        return len(self._connections) <= self._most

    def left(self, connection: Inbound) -> None:
        """It is closed."""
        self._connections.discard(connection)

    def touch(self, sandbox_id: str) -> None:
        """Bytes have come for it."""
        self.ports.touch(sandbox_id)

    async def route(self, request: Request, place: Place | None) -> tuple[Place, Door, Entry]:
        """Where the request goes that names this place, or none. Raises `Refusal` when it may not."""
        place = place or await self._signed(request)
        if place is None:
            raise Refusal(400, "missing header e2b-sandbox-id")
        try:
            door = await self.ports.door(place.sandbox_id)
        except SandboxNotFound:
            raise refusals.not_found(place.sandbox_id) from None
        if lacks_token(request, door, place.port):
            public = await self.ports.published([place.sandbox_id])
            if place.port in public.get(place.sandbox_id, ()):
                return place, door, Entry(request, published=True)
        return place, door, check_access(request, door, place.port)

    async def record(self, door: Door, request: Request, message: dict[str, Any] | None) -> None:
        """A call to the guest, in the audit log, before it is passed on."""
        method, target = request.method.decode("latin-1"), request.target.decode("latin-1")
        event = guest_call(door.org, door.sandbox_id, method, target, user_of(request), message)
        if event is not None:
            await self._control.store.audit.record(event)

    async def input_begins(self, door: Door) -> Source:
        """Input of a process is about to be passed on: whose it is, in the audit log."""
        source = Source(door.org, door.sandbox_id, f"token:{door.sandbox_id}")
        await self.stdin_log.begin(source)
        return source

    async def connect(self, door: Door, place: Place, upstream: Outbound, known: bool) -> str:
        """Open this connection; the token of the guest behind it. Raises `Refusal`."""
        secure = place.port in door.https_ports
        try:
            way = await self.ports.connect(
                door, place.port, asyncio.Protocol if secure else lambda: upstream, used=known
            )
            if secure:
                await speak_tls(way.transport, upstream)
        except NoTls as error:
            raise refusals.no_tls(place.sandbox_id, place.port) from error
        except PortClosed:
            raise refusals.port_closed(place.sandbox_id, place.port) from None
        except (SandboxNotFound, SandboxNotRunning):
            raise refusals.not_found(place.sandbox_id) from None
        except GuestUnavailable:
            if await self.ports.running(door):
                raise
            raise refusals.not_found(place.sandbox_id) from None
        return way.guest_token

    async def connect_api(self, upstream: Outbound) -> None:
        """Open this connection to the API. Raises `Refusal`."""
        try:
            assert self._door is not None
            await self._door.connect_api(lambda: upstream)
        except OSError:
            raise refusals.unavailable("the API does not answer") from None

    async def _signed(self, request: Request) -> Place | None:
        """A signed file URL without a name: the sandbox whose token has signed it."""
        if request.path != b"/files" or b"signature=" not in request.target:
            return None
        tokens = ((id, self.ports.access_token(id)) for id in await self.ports.live())
        found = signed_by(request, tokens)
        if found is None:
            raise refusals.unauthorized("invalid signature")
        return Place(found, GUEST_PORT)

    async def _sweep(self) -> None:
        """Close what has been silent for too long; on the sandboxes' side that is sooner."""
        while True:
            await asyncio.sleep(_TICK)
            now = time.monotonic()
            for connection in list(self._connections):
                if 0 < connection.deadline < now:
                    connection.reset()
                elif 0 < connection.rest_at < now:
                    connection.rest()

    async def _recheck(self) -> None:
        """Cut what came without a token to a port that is private again, whichever server was told so."""
        while True:
            await asyncio.sleep(_TICK)
            came = [(each, place) for each in self._connections if (place := each.published) is not None]
            try:
                public = await self.ports.published({place.sandbox_id for _, place in came})
            except Exception:
                log.exception("which ports are public cannot be said")
                continue
            for connection, place in came:
                if connection.published == place and place.port not in public.get(place.sandbox_id, ()):
                    connection.reset()
