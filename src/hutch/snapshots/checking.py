"""Whether plain files are what was stored, and making them again where they are not."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor

import structlog

from hutch.snapshots import checksums
from hutch.snapshots.parts import Parts, in_thread
from hutch.snapshots.reading import mend
from hutch.snapshots.zstd import Damaged

log = structlog.get_logger("hutch.snapshots")

_THREADS = min(4, os.cpu_count() or 1)


class Checker:
    """For files that somebody waits for."""

    def __init__(self, parts: Parts, threads: ThreadPoolExecutor) -> None:
        self._parts = parts
        self._threads = threads

    async def make_sure(self, id: str) -> None:
        """The plain files of a snapshot, which are there, are what was stored, or what they were when they were
        admitted if that is still to be done. The snapshot's lock is held. Raises `SnapshotCorrupt` where its chunks
        are damaged as well, `SnapshotNotFound`, `DiskFull`."""
        parts = self._parts
        sums = await in_thread(self._threads, lambda: parts.catalog.checksums(id))
        if sums is None:
            return
        pieces = checksums.pieces(parts.layout.hot_copy(id), sums, _THREADS)
        work = (in_thread(self._threads, lambda piece=piece: checksums.check(piece)) for piece in pieces)  # type: ignore[misc]
        for error in await asyncio.gather(*work, return_exceptions=True):
            if isinstance(error, Damaged):
                return await self.mend(id, str(error))
            if isinstance(error, BaseException):
                raise error
        parts.hot.checked(id)

    async def mend(self, id: str, why: str) -> None:
        """Make them again. As `make_sure`."""
        log.warning("plain files of a snapshot are made again from its chunks", snapshot=id, reason=why)
        await in_thread(self._threads, lambda: mend(self._parts, id))
        self._parts.hot.checked(id)
