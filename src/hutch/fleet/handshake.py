"""The first words on a connection to a guest, after which it is no HTTP and somebody else's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from hutch.errors import GuestUnavailable

_MAX_ANSWER = 4096
_END = b"\r\n\r\n"


class Handshake(asyncio.Protocol):
    """Says hello, reads the head of the answer, and where that agrees to another protocol, hands the connection over to
    it without losing a byte."""

    def __init__(self, hello: bytes, protocol: Callable[[], asyncio.Protocol]) -> None:
        self._hello = hello
        self._protocol = protocol
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        """Raises `GuestUnavailable` when the other side hangs up instead."""
        self.agreed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its class
        self._transport.write(self._hello)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(_END)
        if (end < 0 and len(self._buffer) < _MAX_ANSWER) or self.answer.done():
            return
        answer = bytes(self._buffer[: max(end, 0)])
        if answer.startswith(b"HTTP/1.1 101 ") and self._transport is not None:
            self.agreed = True
            self._hand_over(self._transport, bytes(self._buffer[end + len(_END) :]))
        self.answer.set_result(answer)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.answer.done():
            self.answer.set_exception(GuestUnavailable("the sandbox's guest hung up"))
            self.answer.exception()  # it may be that nobody waits for it any more

    def _hand_over(self, transport: asyncio.Transport, early: bytes) -> None:
        protocol = self._protocol()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if early:
            protocol.data_received(early)
