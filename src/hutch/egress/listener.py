"""An HTTP server of aiohttp's that bounds how many connections one address may hold."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any, cast

from aiohttp import web

from hutch.network.resetting import reset

MAX_CONNECTIONS = 96
"""Connections of one address at once; more are closed as they come."""


class Server(web.Server):
    """Closes connections of an address that holds too many: they would use up the node's file descriptors."""

    def __init__(self, handler: Any, **options: Any) -> None:
        super().__init__(handler, **options)
        self.open: defaultdict[str, set[Connection]] = defaultdict(set)

    def drop(self, address: str) -> None:
        """End all connections of an address at once; the calls on them are cancelled."""
        for connection in list(self.open.get(address, ())):
            if connection.transport is not None:
                reset(connection.transport)

    def __call__(self) -> web.RequestHandler:
        """The protocol of a new connection."""
        return Connection(self, loop=self._loop, **self._kwargs)


class Connection(web.RequestHandler):
    """One connection, counted from its begin to its end."""

    __slots__ = ("_address", "_server")

    def __init__(self, server: Server, **options: Any) -> None:
        super().__init__(server, **options)
        self._server = server
        self._address = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._address = str((transport.get_extra_info("peername") or ("",))[0])
        connections = self._server.open[self._address]
        connections.add(self)
        if len(connections) > MAX_CONNECTIONS:
            cast(asyncio.Transport, transport).abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._server.open[self._address].discard(self)
        if not self._server.open[self._address]:
            del self._server.open[self._address]
