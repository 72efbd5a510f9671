"""The store of snapshots of one node."""

from __future__ import annotations

import fcntl
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import TypeVar

from hutch.errors import AlreadyExists
from hutch.model import SnapshotRecord, SnapshotUsage
from hutch.snapshots.admission import admit
from hutch.snapshots.background import Background
from hutch.snapshots.catalog import Catalog
from hutch.snapshots.checking import Checker
from hutch.snapshots.collect import Collected
from hutch.snapshots.disk import Disk, telling_full
from hutch.snapshots.exporting import export
from hutch.snapshots.hot import HotCache, read_ahead
from hutch.snapshots.importing import Origin, unpack
from hutch.snapshots.index import Index
from hutch.snapshots.layout import Layout
from hutch.snapshots.pace import Pace
from hutch.snapshots.parts import Parts, in_thread
from hutch.snapshots.reading import rebuild, verify
from hutch.snapshots.recovery import machine_boot, recover
from hutch.snapshots.scrub import Scrub
from hutch.snapshots.segments import Segments

T = TypeVar("T")

THREADS = 4


class SnapshotStore:
    """Everything is safe to call from the event loop and from many tasks at once; nothing blocks the loop.

    A snapshot goes: plain files (`admit`: it can be thawed at once) -> durable -> whole in chunks -> plain files again
    when it is wanted (`materialise`). All but the first and the last step happen in the background.
    """

    @classmethod
    async def open(
        cls,
        root: Path,
        *,
        cache_bytes: int = 16 << 30,
        cpu_share: float = 0.5,
        scrub_rate: float = 0.0,
        disk: Disk | None = None,
        boot: str | None = None,
    ) -> SnapshotStore:
        """Open or make the store below `root` and finish what the last process began.

        `cache_bytes`: most bytes of plain files to keep (what is not stored yet, or is being read, may exceed it).
        `cpu_share`: part of one core that the background may take. `scrub_rate`: bytes a second that are read to look
        for damage; 0: none. `disk`, `boot`: for tests. Raises `RuntimeError`
        when another process has it open, `OSError`, `DiskFull`.
        """
        store = cls(Layout(root))
        try:
            await store._open(cache_bytes, cpu_share, scrub_rate, disk or Disk(), boot or machine_boot())
        except BaseException:
            store._let_go()
            raise
        return store

    def __init__(self, layout: Layout) -> None:
        """Not to be called: see `open`."""
        self._layout = layout
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="snapshots")
        # What takes long has threads of its own: a pause must not wait for it.
        self._slow_threads = ThreadPoolExecutor(THREADS, thread_name_prefix="snapshots-slow")
        self._lock_file = -1
        self._parts: Parts
        self._background: Background
        self._checker: Checker
        self._scrub: Scrub
        self.lost: list[str] = []
        """Snapshots that a power cut took before they were durable, found when the store was opened."""

    async def close(self) -> None:
        """Stop the background and let go; who waits for it gets `NodeUnavailable`. Leases must have ended."""
        self._parts.pace.stop()
        await self._scrub.stop()
        await self._background.stop()
        await self._run(self._parts.index.close)
        self._let_go()

    # --- taking and giving ---------------------------------------------------------------------------------------

    @asynccontextmanager
    async def stage(self) -> AsyncIterator[Path]:
        """An empty directory for a freeze to write into, on the store's disk. Removed in the end, unless admitted."""
        path = self._layout.temporary("stage")
        await self._run(lambda: path.mkdir(mode=0o700))
        try:
            yield path
        finally:
            await self._run(lambda: self._parts.disk.remove_tree(path))

    async def admit(self, directory: Path, record: SnapshotRecord) -> SnapshotRecord:
        """Take over a frozen directory (from `stage`): plain files only, no directories in it. It can be thawed from
        the moment that this returns, and survives the death of this process; `wait_durable` for a power cut.

        A rename and one small commit. Raises `AlreadyExists`, `DiskFull` (then the directory is still where it was),
        `ValueError` for anything but plain files.
        """
        async with self._parts.lock(record.id):
            if self._parts.hot.leased(record.id):  # deleted, and still being read
                raise AlreadyExists(f"snapshot {record.id} is there already")
            admitted, size = await self._run(lambda: admit(self._parts, directory, record))
            self._parts.hot.add(record.id, size)
            self._background.enqueue(record.id)
            self._read_ahead(record.id)
        return admitted

    async def wait_durable(self, id: str) -> None:
        """Until the snapshot survives a power cut. Raises `SnapshotNotFound`, `DiskFull` (it is tried again)."""
        await self.get(id)
        await self._background.queue.wait_durable(id)

    async def wait_stored(self, id: str) -> None:
        """Until the snapshot is whole in chunks. Raises `SnapshotNotFound`, `DiskFull` (it is tried again)."""
        await self.get(id)
        await self._background.queue.wait_stored(id)

    @asynccontextmanager
    async def materialise(self, id: str) -> AsyncIterator[Path]:
        """The directory of the snapshot's plain files, which stay as they are while this lasts. Not to be written to.

        When they are in the hot cache, at once or after a check; else they are put together from chunks, every one
        checked. Raises
        `SnapshotNotFound`, `SnapshotCorrupt`, `DiskFull`.
        """
        async with self._parts.lock(id):
            if id not in self._parts.hot:
                size = await self._slowly(lambda: rebuild(self._parts, id))
                self._parts.hot.add(id, size)
                self._parts.hot.checked(id)
            elif not self._parts.hot.is_trusted(id):
                await self._checker.make_sure(id)
            self._parts.hot.lease(id)
        try:
            self._read_ahead(id)
            yield self._layout.hot_copy(id)
        finally:
            await self._background.release(id)

    async def delete(self, id: str) -> None:
        """Take it away. Its children become its parent's; who reads it now may read to the end. Raises
        `SnapshotNotFound`, `DiskFull`."""
        async with self._parts.lock(id):
            await self._run(lambda: self._parts.catalog.delete(id))
            self._parts.hot.forget(id)
            self._background.deleted(id)
            if not self._parts.hot.leased(id):
                await self._run(lambda: self._parts.set_aside(id))

    # --- looking ---------------------------------------------------------------------------------------------------

    async def get(self, id: str) -> SnapshotRecord:
        """Raises `SnapshotNotFound`."""
        return await self._run(lambda: self._parts.catalog.get(id))

    async def records(self, sandbox: str | None = None, org: str | None = None) -> list[SnapshotRecord]:
        """Those of a sandbox, of an organisation, or all; oldest first. `hutch.model.lineage` makes trees of them."""
        return await self._run(lambda: self._parts.catalog.records(sandbox, org))

    async def usage(self, org: str | None) -> SnapshotUsage:
        """What an organisation keeps here (None: the host's own)."""

        def work() -> SnapshotUsage:
            count, logical, pending = self._parts.catalog.logical_bytes(org)
            return SnapshotUsage(
                snapshots=count,
                logical_bytes=logical,
                stored_bytes=self._parts.segments.unique_bytes(org),
                pending_bytes=pending,
            )

        return await self._run(work)

    async def damaged(self) -> list[str]:
        """Ids of snapshots in which the last look through the store has found damage that it could not make good."""
        return await self._run(self._scrub.damaged)

    async def verify(self, id: str) -> None:
        """Read all of its chunks and check them; nothing to check while it is plain files only. Takes the background's
        share of CPU. Raises `SnapshotNotFound`, `SnapshotCorrupt`."""
        await self._slowly(lambda: verify(self._parts, id))

    # --- as one file -----------------------------------------------------------------------------------------------

    async def export(self, id: str) -> AsyncGenerator[bytes, None]:
        """The snapshot as one stream: see `hutch.snapshots.archive`. Raises as `materialise` does."""
        record = await self.get(id)
        async with self.materialise(id) as directory, aclosing(export(record, directory, self._slowly)) as parts:
            async for part in parts:
                yield part

    async def import_archive(
        self,
        stream: AsyncIterator[bytes],
        origin: Origin,
        max_bytes: int,
        check: Callable[[SnapshotRecord], None] = lambda exported: None,
        check_room: Callable[[], None] = lambda: None,
    ) -> SnapshotRecord:
        """Take in what `export` gave, perhaps elsewhere, as a new snapshot without a parent. The stream may be any
        bytes: it is refused with `InvalidArchive` unless it is whole and right, with `PayloadTooLarge` when its files
        have more than `max_bytes` together, with what `check` raises of the record that came with it, and
        with what `check_room` raises, which is asked every few MiB. Raises
        `DiskFull`. What fails leaves nothing.

        That the archive is right says nothing about the memory image in it: whoever thaws it runs what its maker
        wrote, in a sandbox, and lets the runtime parse it."""
        async with self.stage() as directory:
            exported = await unpack(stream, directory, self._parts.disk, max_bytes, self._slowly, check_room)
            await self._slowly(lambda: check(exported))
            return await self.admit(directory, origin.adopt(exported))

    def is_hot(self, id: str) -> bool:
        """Whether `materialise` would be quick."""
        return id in self._parts.hot

    def urgent(self) -> AbstractContextManager[None]:
        """While this lasts the background stands back: see `Pace.urgent`."""
        return self._parts.pace.urgent()

    # --- keeping house -----------------------------------------------------------------------------------------------

    async def collect(self) -> Collected:
        """Give back the space of deleted snapshots now, rather than within minutes. Raises `DiskFull`."""
        return await self._background.collect()

    async def _open(self, cache_bytes: int, cpu_share: float, scrub_rate: float, disk: Disk, boot: str) -> None:
        def work() -> tuple[Parts, Background, list[str]]:
            layout = self._layout
            layout.prepare()
            self._lock_file = _take_lock(layout.lock)
            index = Index(layout.index)
            catalog, segments = Catalog(index), Segments(index)
            try:
                with telling_full():
                    found = recover(layout, disk, index, catalog, segments, boot)
            except BaseException:
                index.close()
                raise
            hot = HotCache(cache_bytes)
            for id, size in found.hot.items():
                hot.add(id, size)
            parts = Parts(layout, disk, index, catalog, segments, hot, Pace(cpu_share))
            self.lost = found.lost
            return parts, Background(parts, found.stored), found.pending

        self._parts, self._background, pending = await self._run(work)
        self._checker = Checker(self._parts, self._slow_threads)
        self._scrub = Scrub(self._parts, self._background, self._checker, scrub_rate)
        self._background.start(pending)
        self._scrub.start()

    def _read_ahead(self, id: str) -> None:
        """Not waited for."""
        directory = self._layout.hot_copy(id)

        def work() -> None:
            with suppress(FileNotFoundError):  # deleted meanwhile
                read_ahead(directory)

        self._slow_threads.submit(work)

    def _let_go(self) -> None:
        if self._lock_file >= 0:
            os.close(self._lock_file)
            self._lock_file = -1
        self._threads.shutdown(wait=False)
        self._slow_threads.shutdown(wait=False)

    async def _run(self, work: Callable[[], T]) -> T:
        return await in_thread(self._threads, work)

    async def _slowly(self, work: Callable[[], T]) -> T:
        return await in_thread(self._slow_threads, work)


def _take_lock(path: Path) -> int:
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise RuntimeError(f"another process has {path.parent} open") from None
    return lock
