"""Requests at a steady rate on kept connections, whatever becomes of the earlier ones: what is measured begins when a
request was due, not when there was time for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

_CONNECTIONS = 32


def steady(url: str, headers: Mapping[str, str], rate: int, seconds: int) -> list[float]:
    """Milliseconds of each request."""
    return asyncio.run(_steady(url, headers, rate, seconds))


async def _steady(url: str, headers: Mapping[str, str], rate: int, seconds: int) -> list[float]:
    where = urlsplit(url)
    lines = ["GET / HTTP/1.1", f"Host: {where.netloc}", *(f"{name}: {value}" for name, value in headers.items())]
    request = "\r\n".join([*lines, "", ""]).encode()
    idle: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    for _ in range(_CONNECTIONS):
        idle.put_nowait(await _connect(where.hostname or "", where.port or 80, request))
    values: list[float] = []

    async def ask(due: float) -> None:
        reader, writer = await idle.get()
        writer.write(request)
        await _answer(reader)
        values.append((time.perf_counter() - due) * 1000)
        idle.put_nowait((reader, writer))

    begin = time.perf_counter()
    asking = []
    for number in range(rate * seconds):
        due = begin + number / rate
        if (early := due - time.perf_counter()) > 0:
            await asyncio.sleep(early)
        asking.append(asyncio.create_task(ask(due)))
    await asyncio.gather(*asking)
    while not idle.empty():
        idle.get_nowait()[1].close()
    return values


async def _connect(host: str, port: int, request: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """One that has had its first answer."""
    for _ in range(100):
        try:
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(request)
            await _answer(reader)
            return reader, writer
        except (OSError, ValueError, asyncio.IncompleteReadError):
            await asyncio.sleep(0.1)
    raise SystemExit("the server in the sandbox does not answer")


async def _answer(reader: asyncio.StreamReader) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    if b" 200 " not in head:
        raise ValueError(head.partition(b"\r\n")[0])
    await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]))
