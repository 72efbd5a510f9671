"""Snapshots as files: out of the node, and in again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime

from hutch.errors import DiskFull, RequestTimeout, SnapshotIncompatible
from hutch.model import SnapshotReason, SnapshotRecord
from hutch.node.home import disk_free
from hutch.node.parts import Parts
from hutch.node.room import SPARE_DISK
from hutch.node.seals import archive_key, sealed, unsealed
from hutch.snapshots import Origin

_AT_ONCE = 2
"""Imports at a time; others wait for their turn."""
_LONGEST = 1800.0
"""Seconds that one may take, the waiting for its turn too."""


class Archives:
    """One a node."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._reading = asyncio.Lock()
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def export(self, id: str) -> AsyncGenerator[bytes, None]:
        """The sealed archive of a snapshot. Raises `SnapshotNotFound`, `SnapshotCorrupt`, `DiskFull`."""
        key = await self._key()
        async with aclosing(self._parts.snapshots.export(id)) as archive, aclosing(sealed(archive, key)) as pieces:
            async for piece in pieces:
                yield piece

    async def take_in(self, stream: AsyncIterator[bytes], org: str | None, created_by: str | None) -> SnapshotRecord:
        """What a node of this installation has exported, as a new snapshot of `org` that belongs to no sandbox. Raises
        `InvalidArchive`, `PayloadTooLarge`, `DiskFull`, `LimitReached`, `RequestTimeout`, `SnapshotIncompatible` when
        its image is not here; then nothing of it is left."""
        origin = Origin(org=org, sandbox_id="", created_by=created_by, created_at=datetime.now(UTC))
        parts, key = self._parts, await self._key()
        # Nothing is known of what comes until its seal has been seen, and that is its last word.
        try:
            async with asyncio.timeout(_LONGEST), self._turns, aclosing(unsealed(stream, key)) as archive:
                room = disk_free(parts.home.directory)
                async with parts.snapshots.allowance.kept(org, SnapshotReason.MANUAL, 0):
                    record = await parts.snapshots.take_in(archive, origin, room, self._check, self._check_room)
        except TimeoutError as error:
            raise RequestTimeout(f"the archive has not come whole within {_LONGEST:.0f} seconds") from error
        image = record.runtime.image or ""
        await parts.pins.pin(parts.images.path(image), image)
        return record

    def _check_room(self) -> None:
        if disk_free(self._parts.home.directory) < SPARE_DISK:
            raise DiskFull("this node's disk is full", hint=f"Free some space below {self._parts.settings.data_dir}.")

    def _check(self, exported: SnapshotRecord) -> None:
        image = exported.runtime.image or ""
        if not self._parts.pins.path(image).exists() and not self._parts.images.path(image).exists():
            raise SnapshotIncompatible(
                f"the snapshot stands on the image {image[:12]} of the template {exported.template}, which is not here",
                what="image",
                snapshot=image,
                here="",
                hint="Copy the image's file from the cache directory of the machine where it was made.",
            )

    async def _key(self) -> bytes:
        async with self._reading:  # two of them would make two keys
            return await asyncio.to_thread(archive_key, self._parts.home.archive_key)
