"""Snapshots on their way into the store, and who waits for them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable


class Milestone:
    """Something that will be reached, or for now cannot be."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._error: Exception | None = None

    @property
    def reached(self) -> bool:
        return self._event.is_set() and self._error is None

    def reach(self, error: Exception | None = None) -> None:
        """Tell all who wait; the first word counts."""
        if not self._event.is_set():
            self._error = error
            self._event.set()

    async def wait(self) -> None:
        """Until it is reached. Raises why it is not."""
        await self._event.wait()
        if self._error is not None:
            raise self._error


class Job:
    """One snapshot on its way."""

    def __init__(self, id: str) -> None:
        self.id = id
        self.durable = Milestone()
        self.stored = Milestone()
        self.not_before = 0.0
        """When to try, in seconds of the monotonic clock."""

    def end(self, error: Exception | None = None) -> None:
        """Nothing more will come: what is stored is durable too."""
        self.durable.reach(error)
        self.stored.reach(error)

    def again(self, not_before: float) -> Job:
        """The next try."""
        job = Job(self.id)
        job.not_before = not_before
        if self.durable.reached:
            job.durable.reach()
        return job


class Queue:
    """All jobs, the oldest first. Used by the event loop's thread only."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}

    def __contains__(self, job: Job) -> bool:
        return self._jobs.get(job.id) is job

    def add(self, id: str) -> None:
        """A snapshot of which only the plain files are there."""
        self._jobs[id] = Job(id)

    def due(self) -> list[Job]:
        """Those to be tried now."""
        now = time.monotonic()
        return [job for job in self._jobs.values() if job.not_before <= now]

    def done(self, id: str) -> bool:
        """It is stored, also where its other half has failed meanwhile and waits to be tried again. False when it was
        deleted."""
        job = self._jobs.pop(id, None)
        if job is not None:
            job.end()
        return job is not None

    def drop(self, id: str, error: Exception) -> None:
        """It is no more."""
        if job := self._jobs.pop(id, None):
            job.end(error)

    def failed(self, jobs: Iterable[Job], error: Exception, retry_seconds: float) -> None:
        """Tell those who wait, and try again later."""
        for job in jobs:
            if job in self:
                self._jobs[job.id] = job.again(time.monotonic() + retry_seconds)
                job.end(error)

    def close(self, error: Exception) -> None:
        """Nothing will be done any more."""
        for id in list(self._jobs):
            self.drop(id, error)

    async def wait_durable(self, id: str) -> None:
        """Until it survives a power cut. Raises what keeps it from that now."""
        if job := self._jobs.get(id):
            await job.durable.wait()

    async def wait_stored(self, id: str) -> None:
        """Until it is whole in chunks. Raises what keeps it from that now."""
        if job := self._jobs.get(id):
            await job.stored.wait()
