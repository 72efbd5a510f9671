"""Snapshots, whatever sandbox they are of."""

from __future__ import annotations

import builtins
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import IO

from hutch.errors import NotFound
from hutch.model import Snapshot, SnapshotUsage
from hutch.sdk._async.transport import LOST, AsyncTransport, at
from hutch.sdk._shim import aio
from hutch.sdk.sources import save
from hutch.sdk.wire import parse

_IMPORT_TIMEOUT = 600.0


class AsyncSnapshots:
    """The snapshots of a server. Those of one sandbox: `AsyncSandbox.snapshots`, `AsyncSandbox.timeline`."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def get(self, id: str) -> Snapshot:
        """A snapshot. `SnapshotNotFound` when there is none."""
        return parse(Snapshot, await self._transport.json("GET", at("snapshots", id)))

    async def list(self) -> builtins.list[Snapshot]:
        """All of yours, also of sandboxes that are gone, oldest first."""
        answer = await self._transport.json("GET", at("snapshots"))
        return [parse(Snapshot, each) for each in answer["snapshots"]]

    async def usage(self) -> SnapshotUsage:
        """What they take in the store."""
        return parse(SnapshotUsage, await self._transport.json("GET", at("snapshots", "usage")))

    async def export(self, id: str, to: str | os.PathLike[str] | IO[bytes]) -> int:
        """Write a snapshot to a local path (whole or not at all) or an open file; its size. It holds all that was in
        the sandbox's memory."""
        return await aio.consume(lambda chunks: save(chunks, to), self._archive(id))

    async def import_(self, source: aio.AnySource) -> Snapshot:
        """A new snapshot, of no sandbox, from what `export` wrote: a local `Path`, an open file, or what gives bytes.
        `InvalidArchive` when it was not exported by this installation."""
        content = lambda: aio.body_of(source)  # noqa: E731
        return parse(
            Snapshot,
            await self._transport.json("POST", at("snapshots", "import"), content=content, timeout=_IMPORT_TIMEOUT),
        )

    async def _archive(self, id: str) -> AsyncIterator[bytes]:
        async with self._transport.stream("GET", at("snapshots", id, "archive")) as response:
            try:
                async for chunk in response.aiter_bytes():
                    yield chunk
            except LOST as error:
                raise self._transport.lost(error) from error

    async def delete(self, id: str) -> None:
        """Take it away; its children become its parent's. `Conflict` while a paused sandbox stands on it; no error
        when it is not there."""
        with suppress(NotFound):
            await self._transport.request("DELETE", at("snapshots", id))
