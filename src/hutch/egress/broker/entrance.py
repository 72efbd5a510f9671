"""Takes the connections that the fence leads here: a line that says of which sandbox one is and where to, then what the
sandbox sends. One byte answers the line, so that the fence knows that somebody is there."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
from typing import cast

from hutch.egress.broker.grants import Granted, Grants
from hutch.egress.broker.session import CONNECT_SECONDS, Place, Reporter, Session

GREETING = b"+"
_MAX_LINE = 1024


class Entrance(asyncio.Protocol):
    """One connection, until its session begins. `fence`: the user that may connect."""

    def __init__(self, grants: Grants, trusted: ssl.SSLContext, reporter: Reporter, fence: int) -> None:
        self._grants, self._trusted, self._reporter = grants, trusted, reporter
        self._fence = fence
        self._line = b""
        self._transport: asyncio.Transport
        self._beginning: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if _user(transport.get_extra_info("socket")) != self._fence:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._line += data
        if self._beginning is not None or not self._line.endswith(b"\n") or len(self._line) > _MAX_LINE:
            self._transport.abort()  # the fence sends the line whole, and nothing more until it is answered
            return
        said = json.loads(self._line)
        granted = self._grants.find(said["sandbox"])
        place = Place(said["name"], said["address"], said["port"])
        if granted is None or granted.full:
            self._transport.abort()
        elif said["plain"]:
            session = Session(granted, place, None, self._reporter)
            self._transport.set_protocol(session)
            session.connection_made(self._transport)
            self._transport.write(GREETING)
        elif granted.vouches(place.name, place.port):
            self._open(granted, place)
        else:
            self._transport.abort()

    def _open(self, granted: Granted, place: Place) -> None:
        self._transport.pause_reading()
        context = granted.context(place.name)
        session = Session(granted, place, self._trusted, self._reporter)
        self._beginning = asyncio.get_running_loop().create_task(self._begin(session, context))

    async def _begin(self, session: Session, context: ssl.SSLContext) -> None:
        loop = asyncio.get_running_loop()
        try:
            self._transport.write(GREETING)  # what it sends now comes to the handshake, which begins in the same step
            inside = await loop.start_tls(
                self._transport, session, context, server_side=True, ssl_handshake_timeout=CONNECT_SECONDS
            )
        except (OSError, TimeoutError) as error:
            if not isinstance(error, ConnectionError):
                session.distrusted(error)
            inside = None
        if inside is None:
            session.end()
            self._transport.abort()
        else:
            session.connection_made(inside)


def _user(found: socket.socket) -> int:
    """Who is at the other end of a Unix socket."""
    _, uid, _ = struct.unpack("3i", found.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(uid)
