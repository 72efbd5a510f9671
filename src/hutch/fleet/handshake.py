"""The first words on a connection, after which it is somebody else's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from hutch.errors import NodeUnavailable

_MAX_ANSWER = 4096


class Handshake(asyncio.Protocol):
    """Says hello, reads the answer up to its `end`, and where that `agrees`, hands the connection over to a protocol
    without losing a byte."""

    def __init__(
        self, hello: bytes, end: bytes, agrees: Callable[[bytes], bool], protocol: Callable[[], asyncio.Protocol]
    ) -> None:
        self._hello = hello
        self._end = end
        self._agrees = agrees
        self._protocol = protocol
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        """Raises `NodeUnavailable` when the other side hangs up instead."""
        self.handed_over: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its class
        self._transport.write(self._hello)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(self._end)
        if (end < 0 and len(self._buffer) < _MAX_ANSWER) or self.answer.done():
            return
        answer = bytes(self._buffer[: max(end, 0)])
        if self._agrees(answer) and self._transport is not None:
            self._hand_over(self._transport, bytes(self._buffer[end + len(self._end) :]))
        self.answer.set_result(answer)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.answer.done():
            self.answer.set_exception(NodeUnavailable("the node's tunnel hung up"))

    def abort(self) -> None:
        """Nobody wants it any more."""
        if self.answer.done() and not self.answer.cancelled():
            self.answer.exception()
        if self._transport is not None:
            self._transport.abort()

    def _hand_over(self, transport: asyncio.Transport, early: bytes) -> None:
        protocol = self._protocol()
        transport.set_protocol(protocol)
        self.handed_over = transport
        protocol.connection_made(transport)
        if early:
            protocol.data_received(early)
