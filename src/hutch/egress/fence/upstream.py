"""Asks a name server for the addresses of a name: the host's, or those that a sandbox's policy names."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import struct
from collections.abc import Sequence
from itertools import cycle
from typing import cast

from hutch.egress.fence.dns_wire import SERVFAIL, Answer, BadMessage, parse_answer, question
from hutch.shares import Shares

_WAIT, _LAST_WAIT = 1.5, 3.0
"""Seconds to wait for an answer: of each try but the last, and of that."""
PORT = 53
_FAILED = Answer(SERVFAIL, [], 0, False)


_Question = tuple[str, str, tuple[tuple[str, int], ...]]
"""The guest, the name, and who is asked."""


class Upstream:
    """What one sandbox asks for several times at the same time is asked once. No answer is kept: the name server does
    that. Nor is one shared between sandboxes: none could tell then whose share of the room it takes."""

    def __init__(self, server: tuple[str, int] | None, room: Shares) -> None:
        self._servers = (server,) if server is not None else ()
        self._room = room
        self._asked: dict[_Question, asyncio.Task[Answer]] = {}

    async def ask(self, guest: str, name: str, servers: Sequence[str] = ()) -> Answer | None:
        """What the name server says, or the first of `servers` that says anything; `SERVFAIL` when none does; None: the
        guest has too many questions under way, those included that it waits for no more."""
        question = (guest, name, tuple((server, PORT) for server in servers) or self._servers)
        task = self._asked.get(question)
        if task is None:
            if not question[2]:
                return _FAILED
            if not self._room.take(guest):
                return None
            task = self._asked[question] = asyncio.create_task(self._ask(name, question[2]))
            task.add_done_callback(lambda _: self._done(question))
        return await asyncio.shield(task)

    def _done(self, question: _Question) -> None:
        del self._asked[question]
        self._room.give(question[0])

    async def _ask(self, name: str, servers: Sequence[tuple[str, int]]) -> Answer:
        waits = [_WAIT] * (max(len(servers), 2) - 1) + [_LAST_WAIT]
        for wait, server in zip(waits, cycle(servers), strict=False):
            asked = question(secrets.randbelow(1 << 16), name)
            try:
                async with asyncio.timeout(wait):
                    answer = await _over_udp(asked, name, server)
                    return await _over_tcp(asked, name, server) if answer.truncated else answer
            except (TimeoutError, OSError, BadMessage, asyncio.IncompleteReadError):
                continue
        return _FAILED


class _Socket(asyncio.DatagramProtocol):
    """One question from a port of its own, which only this server can answer."""

    def __init__(self, asked: bytes, name: str) -> None:
        self._asked, self._name = asked, name
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.DatagramTransport, transport).sendto(self._asked)  # uvloop's is one in all but its class

    def datagram_received(self, data: bytes, addr: object) -> None:
        if self.answer.done():
            return
        with contextlib.suppress(BadMessage):  # forged, most likely: the true one may still come
            self.answer.set_result(parse_answer(data, self._asked, self._name))

    def error_received(self, exc: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        self.answer.cancel()


async def _over_udp(asked: bytes, name: str, server: tuple[str, int]) -> Answer:
    loop = asyncio.get_running_loop()
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        made.connect(server)  # here: the loop would ask a thread what the address means, and we may have none
        transport, protocol = await loop.create_datagram_endpoint(lambda: _Socket(asked, name), sock=made)
    except OSError:
        made.close()
        raise
    try:
        return await protocol.answer
    finally:
        transport.close()


async def _over_tcp(asked: bytes, name: str, server: tuple[str, int]) -> Answer:
    reader, writer = await asyncio.open_connection(*server)
    try:
        writer.write(struct.pack(">H", len(asked)) + asked)
        (length,) = struct.unpack(">H", await reader.readexactly(2))
        return parse_answer(await reader.readexactly(length), asked, name)
    finally:
        writer.close()
