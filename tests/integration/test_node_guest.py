"""The node's call to a guest that was thawed, where the guest is hostile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from hutch.errors import GuestUnavailable
from hutch.model import GUEST_PORT, Resources
from hutch.node.guest import GuestClient

pytestmark = pytest.mark.root  # it takes the guest's port on an address of this host's own
ADDRESS = "127.83.0.2"
RESOURCES = Resources(cpus=1, memory_mib=64, disk_mib=64, pids=16)
Answer = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def guest(answer: Answer) -> AsyncIterator[list[bytes]]:
    """Something that answers at the guest's port; the tokens that it was shown."""
    shown: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            token = head.partition(b"X-Access-Token: ")[2].partition(b"\r\n")[0]
            shown.append(token)
            await answer(token, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, ADDRESS, GUEST_PORT)
    try:
        yield shown
    finally:
        server.close()
        await server.wait_closed()
        await asyncio.sleep(0.05)


async def thaw(within: float = 2.0) -> None:
    client = GuestClient()
    await client.start()
    try:
        await client.thaw(ADDRESS, "sbx_x", ["old"], "new", "boot", None, RESOURCES, within)
    finally:
        await client.stop()


def says(text: bytes) -> Answer:
    async def answer(token: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(text)
        await writer.drain()

    return answer


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
REFUSED = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\n{}"
ELSEWHERE = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize(
    "nonsense",
    [
        b"",
        b"\xff\x00" * 5000,
        ELSEWHERE,
        REFUSED,
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/9 9\r\n\r\n",
    ],
    ids=["nothing", "bytes", "redirect", "refusal", "length", "version"],
)
async def test_nonsense_is_a_guest_that_does_not_answer_and_takes_no_longer(nonsense: bytes) -> None:
    started = time.monotonic()
    async with guest(says(nonsense)) as shown:
        with pytest.raises(GuestUnavailable):
            await thaw()
        assert time.monotonic() - started < 8
        assert set(shown) <= {b"old", b"new"}


async def test_an_endless_answer_is_not_read_to_its_end() -> None:
    async def flood(token: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
            await writer.drain()

    started = time.monotonic()
    async with guest(flood):
        await thaw()
    assert time.monotonic() - started < 5


async def test_a_lost_answer_does_not_lock_the_node_out() -> None:
    """The first call was obeyed, and its answer lost: from then on the guest knows the new token alone."""
    calls = 0

    async def obey(token: bytes, writer: asyncio.StreamWriter) -> None:
        nonlocal calls
        calls += 1
        if calls > 1:
            writer.write(OK if token == b"new" else REFUSED)
            await writer.drain()

    async with guest(obey) as shown:
        await thaw()
    assert shown == [b"old", b"old", b"new"]
