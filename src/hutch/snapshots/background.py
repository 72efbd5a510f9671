"""What happens to snapshots after the pause is over: made durable, stored in chunks, evicted, collected."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import structlog

from hutch.errors import HutchError, SnapshotNotFound
from hutch.snapshots.collect import Collected, Collector
from hutch.snapshots.disk import telling_full
from hutch.snapshots.ingest import Ingest
from hutch.snapshots.pace import Stopped
from hutch.snapshots.parts import Parts, in_thread

log = structlog.get_logger("hutch.snapshots")

RETRY_SECONDS = 30.0
COLLECT_SECONDS = 300.0
"""At most so often is garbage collected without being asked for."""


@dataclass
class _Job:
    """One snapshot on its way."""

    durable: asyncio.Event = field(default_factory=asyncio.Event)
    stored: asyncio.Event = field(default_factory=asyncio.Event)
    error: Exception | None = None
    """Why the last try failed; there will be another."""

    def end(self, error: Exception | None) -> None:
        """Tell all who wait."""
        self.error = error
        self.durable.set()
        self.stored.set()


class Background:
    """One task and one thread: the background never takes more than its share of one core."""

    def __init__(self, parts: Parts, stored: set[str]) -> None:
        self.stored = stored
        """Snapshots that are whole in chunks."""
        self._parts = parts
        self._jobs: dict[str, _Job] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="snapshots-background")
        self._collector = Collector(parts.layout, parts.disk, parts.segments)
        self._wake = asyncio.Event()
        self._garbage = True  # what a killed process left
        self._collected_at = time.monotonic()
        self._task: asyncio.Task[None] | None = None

    def start(self, pending: Iterable[str]) -> None:
        """Begin, with what the last process did not come to."""
        for id in pending:
            self.enqueue(id)
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End the work at its next step; what is unfinished is done by the next process."""
        self._parts.pace.stop()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for job in self._jobs.values():
            job.end(Stopped())
        self._thread.shutdown(wait=True)

    def enqueue(self, id: str) -> None:
        """A snapshot's plain files are there: make them durable and store them."""
        self._jobs[id] = _Job()
        self._wake.set()

    def deleted(self, id: str) -> None:
        """The snapshot is no more."""
        self.stored.discard(id)
        self._garbage = True
        if job := self._jobs.pop(id, None):
            job.end(SnapshotNotFound(f"snapshot {id} was deleted", snapshot=id))

    def wake(self) -> None:
        """There may be something to evict."""
        self._wake.set()

    async def wait_durable(self, id: str) -> None:
        """Until the snapshot survives a power cut. Raises what keeps it from that now (`DiskFull`)."""
        if job := self._jobs.get(id):
            await job.durable.wait()
            if job.error is not None:
                raise job.error

    async def wait_stored(self, id: str) -> None:
        """Until the snapshot is whole in chunks. Raises what keeps it from that now (`DiskFull`)."""
        if job := self._jobs.get(id):
            await job.stored.wait()
            if job.error is not None:
                raise job.error

    async def collect(self) -> Collected:
        """Collect garbage now. Raises `DiskFull`."""

        def work() -> Collected:
            with telling_full():
                return self._collector.run(self._parts.pace.meter())

        self._garbage = False
        self._collected_at = time.monotonic()
        return await in_thread(self._thread, work)

    async def evict(self) -> None:
        """Let plain files go until the cache is within its limit."""
        for id in self._parts.hot.surplus(self.stored):

            def work(id: str = id) -> None:
                self._parts.catalog.mark_synced([id], False)
                self._parts.set_aside(id)

            async with self._parts.lock(id):
                if id in self._parts.hot and not self._parts.hot.leased(id):
                    await in_thread(self._thread, work)
                    self._parts.hot.forget(id)

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY_SECONDS):
                    await self._wake.wait()
            self._wake.clear()
            with _logging("made durable"):
                await self._make_durable()
            for id in list(self._jobs):
                with _logging("stored", id):
                    await self._store(id)
            with _logging("evicted"):
                await self.evict()
            if self._garbage and time.monotonic() - self._collected_at >= COLLECT_SECONDS:
                with _logging("collected"):
                    await self.collect()

    async def _make_durable(self) -> None:
        """All that wait at once: their pauses are over, but a power cut would still take them."""
        waiting = {id: job for id, job in self._jobs.items() if not job.durable.is_set()}
        if not waiting:
            return
        for id in waiting:
            self._parts.hot.lease(id)
        try:
            await in_thread(self._thread, lambda: self._sync(list(waiting)))
            for job in waiting.values():
                job.durable.set()
        except Exception as error:
            self._retry(waiting, error)
            raise
        finally:
            for id in waiting:
                await self.release(id)

    async def _store(self, id: str) -> None:
        """One snapshot; if it cannot be done now, later."""
        job = self._jobs.get(id)
        if job is None:  # deleted meanwhile
            return
        self._parts.hot.lease(id)
        try:
            await in_thread(self._thread, lambda: self._ingest(id))
            if self._jobs.pop(id, None) is not None:
                self.stored.add(id)
                job.end(None)
        except SnapshotNotFound:
            self.deleted(id)
        except Exception as error:
            self._garbage = True
            self._retry({id: job}, error)
            raise
        finally:
            await self.release(id)

    async def release(self, id: str) -> None:
        """End a lease; if the snapshot was deleted meanwhile, its plain files go now."""
        if self._parts.hot.release(id):
            await in_thread(self._thread, lambda: self._parts.set_aside(id))

    def _retry(self, jobs: dict[str, _Job], error: Exception) -> None:
        for id, job in jobs.items():
            if self._jobs.get(id) is job:
                again = self._jobs[id] = _Job()
                if job.durable.is_set():
                    again.durable.set()
                job.end(error)

    def _ingest(self, id: str) -> None:
        parts = self._parts
        with telling_full():
            org = parts.catalog.get(id).org
            ingest = Ingest(parts.layout, parts.disk, parts.segments, org)
            ingest.run(id, parts.layout.hot_copy(id), parts.catalog, parts.pace.meter())

    def _sync(self, ids: list[str]) -> None:
        """Contents, then names, then the word that both are there."""
        parts = self._parts
        with telling_full():
            for id in ids:
                directory = parts.layout.hot_copy(id)
                for path in directory.iterdir():
                    parts.disk.sync_path(path)
                parts.disk.sync_path(directory)
            parts.disk.sync_path(parts.layout.hot)
            parts.catalog.mark_synced(ids, True)


@contextlib.contextmanager
def _logging(what: str, id: str | None = None) -> Iterator[None]:
    try:
        yield
    except HutchError as error:
        log.warning("snapshot not " + what + ", trying again", snapshot=id, error=str(error))
    except Exception:
        log.exception("snapshot not " + what + ", trying again", snapshot=id)
