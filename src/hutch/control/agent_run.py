"""Follows one agent: its output to events, its budget of time, and the order to stop.

The output waits in the guest's spool. Here it is read from the stored place; events, the new place and the outcome so
far go into the database in one transaction; only then is the guest told that it may forget. Whoever is killed in
between: the next one reads on from the stored place, and no event is lost or doubled.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

import structlog

from hutch.agents import Agent
from hutch.control import budget, limits
from hutch.control.checkpoints import Checkpointer, Halt
from hutch.control.context import Context
from hutch.control.moves import Moves
from hutch.control.notifier import events_of, stop_of
from hutch.control.transcript import Transcript
from hutch.control.views import task_usage
from hutch.errors import Conflict, ExecNotFound, GuestUnavailable, HutchError, SandboxNotRunning
from hutch.fleet import GuestClient, Output
from hutch.model import Budget
from hutch.store.readers import ReaderRow
from hutch.store.tasks import TaskRow

log = structlog.get_logger("hutch.control")

_LATEST = 0.1
"""Seconds that an event may wait for company before it is stored."""
_MUCH = 512 << 10
"""Bytes of output that are stored without waiting."""
_LOOK = 2.0
"""Seconds after which the task's row is looked at without having been woken."""
_CATCH_UP = 2.0
"""Seconds that what an agent has printed may take to be read, for a checkpoint."""
_ACK = 5.0
"""Seconds for an acknowledgement: whoever wants to freeze the sandbox waits for it."""
_DRAIN = 10.0
"""Seconds that a killed agent's output may take to come to its end."""


class AgentRun:
    """The agent of one task, while its process runs. Made anew after every interruption."""

    def __init__(self, context: Context, moves: Moves, task: TaskRow, agent: Agent) -> None:
        self._context = context
        self._moves = moves
        self._task = task
        self._agent = agent
        self._exec_id = task.exec_id or ""
        self._budget = Budget.model_validate(task.budget)
        self._reading = asyncio.Lock()
        """Held while output is taken and stored; by a checkpoint, to keep it from being."""
        self._read_on = asyncio.Event()
        self._turn = task.turn

    async def follow(self) -> None:
        """Returns when the process has ended and its whole output is stored. Raises `GuestUnavailable`,
        `NodeUnavailable`, `SandboxNotRunning` (come again), `LeaseLost` (do not)."""
        transcript = Transcript(self._agent, await self._context.store.readers.get(self._task.id))
        if transcript.ended:
            return
        halted = partial(self._halted, transcript)
        checkpoints = Checkpointer(self._context, self._moves, self._task, transcript.outcome.turns, halted)
        watch = asyncio.create_task(self._stop_when_told())
        read = asyncio.create_task(self._read(transcript, checkpoints))
        take = asyncio.create_task(checkpoints.run())
        try:
            await asyncio.wait({watch, read}, return_when=asyncio.FIRST_COMPLETED)
            if not read.done() and watch.exception() is None:
                await asyncio.wait({read}, timeout=_DRAIN)
            if read.done():
                return read.result()
            watch.result()
            log.warning("a killed agent's output has no end", task=self._task.id)
        finally:
            for work in (watch, read, take):
                work.cancel()
            await asyncio.gather(watch, read, take, return_exceptions=True)

    async def _read(self, transcript: Transcript, checkpoints: Checkpointer) -> None:
        while True:
            taken = checkpoints.taken
            output = await (await self._guest()).output(self._exec_id, transcript.offset)
            try:
                return await self._pump(output, transcript, checkpoints)
            except GuestUnavailable:
                if checkpoints.taken == taken:
                    raise
                async with self._reading:  # it was a checkpoint that has cut us off: until it is taken
                    pass
            finally:
                await output.aclose()

    async def _pump(self, output: Output, transcript: Transcript, checkpoints: Checkpointer) -> None:
        """Take frames as they come; store when something has waited long enough, or there is much of it."""
        batch = asyncio.create_task(output.batch())
        store_at: float | None = None
        try:
            while True:
                patience = None if store_at is None else max(0.0, store_at - time.monotonic())
                await asyncio.wait({batch}, timeout=patience)
                over = False
                async with self._reading:
                    if batch.done():
                        frames = batch.result()
                        over = not frames
                        for frame in frames:
                            transcript.take(frame)
                        batch = asyncio.create_task(output.batch())
                        self._read_on.set()
                        checkpoints.reached(transcript.outcome.turns)
                    if transcript.dirty and store_at is None:
                        store_at = time.monotonic() + _LATEST
                    due = store_at is not None and (time.monotonic() >= store_at or transcript.pending_bytes >= _MUCH)
                    if due or over or transcript.ended:
                        await self._store(transcript)
                        store_at = None
                if over or transcript.ended:
                    return
        finally:
            batch.cancel()
            await asyncio.gather(batch, return_exceptions=True)

    @asynccontextmanager
    async def _halted(self, transcript: Transcript) -> AsyncIterator[Halt]:
        """See `Halt`. Raises `GuestUnavailable` when the output does not come."""
        end = (await (await self._guest()).process(self._exec_id)).output_end
        try:
            async with asyncio.timeout(_CATCH_UP):
                while transcript.offset < end:
                    self._read_on.clear()
                    await self._read_on.wait()
        except TimeoutError:
            raise GuestUnavailable("the agent's output does not come") from None
        async with self._reading:
            await self._store(transcript)
            outcome = transcript.outcome
            yield Halt(outcome.turns, outcome.answering, outcome.between, transcript.ended or outcome.over)

    async def _store(self, transcript: Transcript) -> None:
        if not transcript.dirty:
            return
        async with self._context.places.still(self._task.sandbox_id):
            row = await self._write(transcript)
            try:
                async with asyncio.timeout(_ACK):
                    await (await self._guest()).ack(self._exec_id, row.guest_offset)
            except (HutchError, TimeoutError) as error:  # the next acknowledgement covers this one
                log.debug("output not acknowledged", task=self._task.id, error=str(error))

    async def _write(self, transcript: Transcript) -> ReaderRow:
        store = self._context.store
        row, events, breaches = transcript.drain()
        topics = [events_of(self._task.id)]
        async with store.database.write() as connection:
            await store.tasks.check(connection, self._task.id, self._task.fence)
            for breach in breaches:
                topics += await limits.note(self._context, connection, self._task.sandbox_id, breach)
            await store.events.append(connection, self._task.id, events)
            await store.readers.put(connection, row)
            if transcript.outcome.turns != self._turn:
                await store.tasks.change(connection, self._task.id, self._task.fence, turn=transcript.outcome.turns)
        self._turn = transcript.outcome.turns
        transcript.stored(row)
        self._context.notifier.notify(*topics)
        return row

    async def _stop_when_told(self) -> None:
        """Returns after the agent was killed, because the task's row says so or its time is over."""
        while True:
            bell = self._context.notifier.bell(stop_of(self._task.id))
            task = await self._context.store.tasks.get(self._task.id)
            if task is None or task.stop is not None:
                break
            wait = _LOOK
            if task.started_at is not None:
                run_time = task_usage(task).run_time
                if alarms := budget.assess(self._budget, run_time=run_time, said=task.warned):
                    await self._sound(alarms)
                    continue
                wait = min(wait, budget.next_look(self._budget, run_time))
            await self._context.notifier.wait(bell, wait)
        with suppress(Conflict, ExecNotFound):  # it has ended already
            await (await self._guest()).signal(self._exec_id, "SIGKILL")

    async def _guest(self) -> GuestClient:
        """Looked for each time: a snapshot changes its token."""
        row = await self._context.store.sandboxes.get(self._task.sandbox_id)
        if row is None:
            raise SandboxNotRunning(f"{self._task.sandbox_id} is gone")
        return self._context.guest_of(row)

    async def _sound(self, alarms: list[budget.Alarm]) -> None:
        store = self._context.store
        async with store.database.write() as connection:
            task = await store.tasks.lock(connection, self._task.id)
            if task is not None:
                await budget.sound(self._context, connection, task, alarms)
        self._context.notifier.notify(events_of(self._task.id))
