"""Gives every unfinished task a worker: those that are submitted here at once, and those that an earlier or another
process has left as soon as their lease is free."""

from __future__ import annotations

import asyncio
import time

import structlog

from hutch.control.context import Context
from hutch.control.journal import Journal
from hutch.control.lifecycle import Lifecycle
from hutch.control.moves import Moves
from hutch.control.rewinds import Rewinds
from hutch.control.worker import LEASE, TaskWorker
from hutch.store.tasks import LeaseLost

log = structlog.get_logger("hutch.control")

_LOOK = 5.0


class Supervisor:
    """The workers of this process."""

    def __init__(
        self, context: Context, lifecycle: Lifecycle, moves: Moves, rewinds: Rewinds, journal: Journal
    ) -> None:
        self._context = context
        self._lifecycle = lifecycle
        self._moves = moves
        self._rewinds = rewinds
        self._journal = journal
        self._workers: dict[str, asyncio.Task[None]] = {}
        self._closed = False

    async def watch(self) -> None:
        """Look for tasks without a worker, for ever."""
        while True:
            try:
                for task in await self._context.store.tasks.unfinished():
                    self.submit(task.id)
            except Exception:
                log.exception("tasks cannot be looked for")
            await asyncio.sleep(_LOOK)

    def submit(self, task_id: str) -> None:
        """Work on this task, if nobody does."""
        if task_id not in self._workers and not self._closed:
            worker = self._workers[task_id] = asyncio.create_task(self._run(task_id))
            worker.add_done_callback(lambda _: self._workers.pop(task_id, None))

    async def restart(self, task_id: str) -> None:
        """Have this task, which was taken from its worker, worked on anew."""
        if (worker := self._workers.get(task_id)) is not None:
            worker.cancel()
            await asyncio.gather(worker, return_exceptions=True)
        self.submit(task_id)

    async def close(self) -> None:
        """Stop all workers. Their tasks wait, their agents go on."""
        self._closed = True
        workers = list(self._workers.values())
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)

    async def _run(self, task_id: str) -> None:
        try:
            task = await self._context.store.tasks.claim(task_id, self._context.instance, time.time(), LEASE)
            if task is not None:
                parts = (self._context, self._lifecycle, self._moves, self._rewinds, self._journal)
                await TaskWorker(*parts, task).run()
        except LeaseLost:
            log.warning("another process has the task", task=task_id)
        except Exception:
            log.exception("worker failed; it is tried again", task=task_id)
