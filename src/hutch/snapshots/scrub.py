"""Reading all that is kept, again and again: a disk that changes bits is found before somebody needs what it changed.

A round looks at the plain files first, then at the chunks, slowly and past the page cache. Where it is, is written
down: the next process goes on from there. Of what is damaged, plain files are made again from chunks, and chunks from
plain files; what is left is told.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import structlog

from hutch.errors import HutchError, SnapshotCorrupt, SnapshotNotFound
from hutch.snapshots import checksums
from hutch.snapshots.background import Background
from hutch.snapshots.checking import Checker
from hutch.snapshots.pace import Stopped
from hutch.snapshots.packs import PackReader
from hutch.snapshots.parts import Parts, T, in_thread
from hutch.snapshots.rounds import Position, Rounds
from hutch.snapshots.segments import Located
from hutch.snapshots.zstd import Damaged

log = structlog.get_logger("hutch.snapshots")

ROUND_SECONDS = 86400.0
"""A round begins so long after the last one began, or when that is over."""
RETRY_SECONDS = 60.0
_BATCH = 256
"""Segments after which the place is written down."""


class Scrub:
    """One a store. `rate`: bytes a second that it reads; 0: it does nothing."""

    def __init__(self, parts: Parts, background: Background, checker: Checker, rate: float) -> None:
        self._parts = parts
        self._background = background
        self._checker = checker
        self._rounds = Rounds(parts.index)
        self._rate = rate
        self._step: Callable[[int], None] = parts.pace.slowly(rate) if rate else lambda size: None
        self._thread = ThreadPoolExecutor(1, "snapshots-scrub")
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, or go on where the last process was."""
        if self._rate:
            self._task = asyncio.create_task(self._run(), name="scrub")

    def damaged(self) -> list[str]:
        """See `SnapshotStore.damaged`."""
        return self._rounds.damaged()

    async def stop(self) -> None:
        """End at the next step; `Pace.stop` comes before."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._thread.shutdown(wait=True)

    async def _run(self) -> None:
        while True:
            try:
                at = await self._do(self._rounds.position)
                if at.over and (rest := at.begun + ROUND_SECONDS - time.time()) > 0:
                    await asyncio.sleep(min(rest, ROUND_SECONDS))  # less, where the clock was set back
                    continue
                await self.go_on(replace(Position(), begun=time.time()) if at.over else at)
            except Stopped:
                return
            except Exception:
                log.exception("looking for damage in the store of snapshots failed, trying again")
                await asyncio.sleep(RETRY_SECONDS)

    async def go_on(self, at: Position) -> None:
        """From there to the round's end."""
        while (id := next((id for id in self._parts.hot.ids() if id > at.hot), None)) is not None:
            await self._look_at(id, at)
            at = await self._note(replace(at, hot=id))
        while batch := await self._do(lambda: self._parts.segments.after(at.segment, _BATCH)):  # noqa: B023
            for one in batch:
                await self._check(one, at)
            at = await self._note(replace(at, segment=max(one.segment.id for one in batch)))
        await self._do(lambda: self._rounds.end(at))
        log.info("looked through the store of snapshots", seconds=round(time.time() - at.begun))

    async def _look_at(self, id: str, at: Position) -> None:
        """Plain files, which stay while this lasts, and may be used meanwhile."""
        if id not in self._background.stored:
            return
        self._parts.hot.lease(id, using=False)
        try:
            if (why := await self._do(lambda: self._find_damage(id))) is not None:
                await self._mend(id, why)
        except SnapshotCorrupt as error:
            log.error("a snapshot is damaged, its plain files and its chunks", snapshot=id, error=error.detail)
            await self._do(lambda: self._rounds.note_damage(id, at))
        except SnapshotNotFound:
            pass
        finally:
            await self._background.release(id)

    def _find_damage(self, id: str) -> str | None:
        sums = self._parts.catalog.checksums(id)
        if sums is None:
            return "it was stored without checksums"
        try:
            for piece in checksums.pieces(self._parts.layout.hot_copy(id), sums, 1):
                checksums.check(piece, self._step, direct=True)
        except Damaged as error:
            return str(error)
        return None

    async def _mend(self, id: str, why: str) -> None:
        async with self._parts.lock(id):
            if id in self._parts.hot and id in self._background.stored:
                await self._checker.mend(id, why)

    async def _check(self, one: Located, at: Position) -> None:
        if (why := await self._do(lambda: self._damage_of(one))) is None:
            return
        needing = await self._do(lambda: self._parts.catalog.needing(one.segment.id))
        for id in needing:
            if not await self._store_again(id):
                log.error("chunks of a snapshot are damaged", snapshot=id, segment=one.segment.id, reason=why)
                await self._do(lambda: self._rounds.note_damage(id, at))  # noqa: B023

    def _damage_of(self, one: Located) -> str | None:
        """It may be moved to another pack, or be gone, while it is read. What is damaged serves no new snapshot."""
        segments = self._parts.segments
        for _ in range(2):
            if not (found := segments.locate([one.segment.id])):
                return None
            why = self._read(found[0])
            if why is None:
                return None
        segments.distrust(one.segment.id)
        return why

    def _read(self, one: Located) -> str | None:
        try:
            with PackReader(self._parts.layout.pack(one.pack)) as reader:
                reader.forget(one.segment)
                reader.read(one.segment)
                reader.forget(one.segment)
        except Damaged as error:
            return str(error)
        except OSError as error:
            if not checksums.is_damage(error):
                raise
            return str(error)
        finally:
            self._step(one.segment.stored)
        return None

    async def _store_again(self, id: str) -> bool:
        """Whether there are plain files, and they are not damaged as well."""
        async with self._parts.lock(id):
            if id not in self._parts.hot or id not in self._background.stored:
                return id not in self._background.stored  # gone meanwhile, or just being stored again
            self._parts.hot.lease(id, using=False)
            try:
                if await self._do(lambda: self._find_damage(id)) is not None:
                    return False
                log.warning("chunks of a snapshot are damaged, stored again from its plain files", snapshot=id)
                await self._background.store_again(id)
            except SnapshotNotFound:
                return True
            except Stopped:
                raise
            except HutchError:
                return False
            finally:
                await self._background.release(id)
        return True

    async def _note(self, at: Position) -> Position:
        await self._do(lambda: self._rounds.note(at))
        return at

    async def _do(self, work: Callable[[], T]) -> T:
        return await in_thread(self._thread, work)
