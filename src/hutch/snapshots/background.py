"""What happens to snapshots after the pause is over: made durable, stored in chunks, evicted, collected."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial

import structlog

from hutch.errors import HutchError, SnapshotNotFound
from hutch.snapshots.collect import Collected, Collector
from hutch.snapshots.disk import telling_full
from hutch.snapshots.ingest import Ingest
from hutch.snapshots.pace import Stopped
from hutch.snapshots.parts import Parts, T, in_thread
from hutch.snapshots.progress import Job, Queue

log = structlog.get_logger("hutch.snapshots")

RETRY_SECONDS = 30.0
COLLECT_SECONDS = 300.0
"""At most so often is garbage collected without being asked for."""


class Background:
    """Two tasks with a thread each. One makes plain files durable, which costs no CPU and is waited for; the other
    stores, evicts and collects, and never takes more than its share of one core."""

    def __init__(self, parts: Parts, stored: set[str]) -> None:
        self.stored = stored
        """Snapshots that are whole in chunks."""
        self.queue = Queue()
        self._parts = parts
        self._threads = {name: ThreadPoolExecutor(1, f"snapshots-{name}") for name in ("sync", "store")}
        self._collector = Collector(parts.layout, parts.disk, parts.segments)
        self._garbage = True  # what a killed process left
        self._collected_at = time.monotonic()
        self._wakes = [asyncio.Event(), asyncio.Event()]
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, pending: Iterable[str]) -> None:
        """Begin, with what the last process did not come to."""
        for id in pending:
            self.queue.add(id)
        rounds = (self._sync_round, self._store_round)
        self._tasks = [asyncio.create_task(self._run(*pair)) for pair in zip(self._wakes, rounds, strict=True)]
        self.wake()

    async def stop(self) -> None:
        """End the work at its next step (`Pace.stop` comes before); what is unfinished is done by the next process."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.queue.close(Stopped())
        for thread in self._threads.values():
            thread.shutdown(wait=True)

    def enqueue(self, id: str) -> None:
        """A snapshot's plain files are there: make them durable and store them."""
        self.queue.add(id)
        self.wake()

    def deleted(self, id: str) -> None:
        """The snapshot is no more."""
        self.stored.discard(id)
        self._garbage = True
        self.queue.drop(id, SnapshotNotFound(f"snapshot {id} was deleted", snapshot=id))

    async def store_again(self, id: str) -> None:
        """Its chunks are damaged and its plain files are not: put those into the store once more. The snapshot's lock
        is held. Raises `SnapshotNotFound`, `DiskFull`."""
        self.stored.discard(id)
        try:
            await self._do("sync", lambda: self._sync([id]))  # from here on they are all there is
            await self._do("sync", lambda: self._parts.catalog.unstore(id))
        except BaseException:
            self.stored.add(id)
            raise
        self.enqueue(id)

    def wake(self) -> None:
        """There is something to do."""
        for event in self._wakes:
            event.set()

    async def collect(self) -> Collected:
        """Collect garbage now. Raises `DiskFull`."""
        self._garbage = False
        self._collected_at = time.monotonic()
        return await self._do("store", lambda: self._collector.run(self._parts.pace.meter()))

    async def release(self, id: str) -> None:
        """End a lease; if the snapshot was deleted meanwhile, its plain files go now, else perhaps soon."""
        if self._parts.hot.release(id):
            await self._do("sync", lambda: self._parts.set_aside(id))
        self.wake()

    async def _run(self, wake: asyncio.Event, one_round: Callable[[], Awaitable[None]]) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY_SECONDS):
                    await wake.wait()
            wake.clear()
            await one_round()

    async def _sync_round(self) -> None:
        """All that wait at once: their pauses are over, but a power cut would still take them."""
        jobs = [job for job in self.queue.due() if not job.durable.reached]
        if jobs:
            async with self._trying(jobs):
                await self._do("sync", lambda: self._sync([job.id for job in jobs]))
                for job in jobs:
                    job.durable.reach()

    async def _store_round(self) -> None:
        """One after the other, and the cache kept within its limit all along."""
        await self._evict()
        for job in self.queue.due():
            if job in self.queue:  # it may have been deleted meanwhile
                async with self._trying([job]):
                    await self._do("store", partial(self._ingest, job.id))
                    if self.queue.done(job.id):
                        self.stored.add(job.id)
                        self._parts.hot.checked(job.id)  # its checksums are of what was read of it just now
                await self._evict()
        if self._garbage and time.monotonic() - self._collected_at >= COLLECT_SECONDS:
            async with self._trying([]):
                await self.collect()

    async def _evict(self) -> None:
        for id in self._parts.hot.surplus(self.stored):
            async with self._trying([]), self._parts.lock(id):
                if id in self._parts.hot and not self._parts.hot.leased(id):
                    await self._do("store", partial(self._set_aside, id))
                    self._parts.hot.forget(id)

    @asynccontextmanager
    async def _trying(self, jobs: list[Job]) -> AsyncIterator[None]:
        """Keep the plain files of these where they are; what goes wrong is told, and tried again later."""
        for job in jobs:
            self._parts.hot.lease(job.id)
        try:
            yield
        except SnapshotNotFound as error:
            for job in jobs:
                self.queue.drop(job.id, error)
        except Exception as error:
            self._garbage = True
            self.queue.failed(jobs, error, RETRY_SECONDS)
            log.warning(
                "background work on snapshots failed, trying again",
                snapshots=[job.id for job in jobs],
                error=repr(error),
                exc_info=not isinstance(error, HutchError),
            )
        finally:
            for job in jobs:
                await self.release(job.id)

    async def _do(self, thread: str, work: Callable[[], T]) -> T:
        def told() -> T:
            with telling_full():
                return work()

        return await in_thread(self._threads[thread], told)

    def _set_aside(self, id: str) -> None:
        self._parts.catalog.mark_synced([id], False)
        self._parts.set_aside(id)

    def _ingest(self, id: str) -> None:
        parts = self._parts
        ingest = Ingest(parts.layout, parts.disk, parts.segments, parts.catalog.get(id).org)
        ingest.run(id, parts.layout.hot_copy(id), parts.catalog, parts.pace.meter())

    def _sync(self, ids: list[str]) -> None:
        """Contents, then names, then the word that both are there."""
        parts = self._parts
        for id in ids:
            directory = parts.layout.hot_copy(id)
            for path in directory.iterdir():
                parts.disk.sync_path(path)
            parts.disk.sync_path(directory)
        parts.disk.sync_path(parts.layout.hot)
        parts.catalog.mark_synced(ids, True)
