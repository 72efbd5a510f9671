"""Connections to ports of sandboxes, before a Unix socket that answers as the node's tunnel does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from hutch.errors import NodeUnavailable
from hutch.fleet import tunnel
from hutch.fleet.tunnel import open_port


@asynccontextmanager
async def answering(path: Path, after: float) -> AsyncIterator[Path]:
    """A tunnel that says OK so many seconds later."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        await asyncio.sleep(after)
        writer.write(b"OK\n")
        await reader.read()
        writer.close()

    server = await asyncio.start_unix_server(serve, path)
    try:
        yield path
    finally:
        server.close()


async def test_the_end_of_a_freeze_is_waited_for_and_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tunnel, "_HANDSHAKE_TIMEOUT", 0.05)
    async with answering(tmp_path / "socket", after=0.2) as path:
        transport = await open_port(path, "sbx_1", 80, asyncio.Protocol)
        transport.abort()
        monkeypatch.setattr(tunnel, "_FREEZE_TIMEOUT", 0.05)
        with pytest.raises(NodeUnavailable):
            await open_port(path, "sbx_1", 80, asyncio.Protocol)
        await asyncio.sleep(0.3)
