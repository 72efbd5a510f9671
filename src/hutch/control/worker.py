"""One task, from its first step to its last.

    boot ──► inputs ──► agent ──► collect ──► end ──► release ──► done

    rollback ──► inputs, agent or collect: wherever the task was

The step that comes next stands in the task's row, and every step may be begun again: whoever holds the lease after a
crash goes on from there. A step that meets a node or guest that does not answer is tried again until it does, or until
the sandbox's end is known; a task never fails because something restarts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

import structlog

from hutch import agents
from hutch.control.agent_run import AgentRun
from hutch.control.context import Context, event, not_running
from hutch.control.grants import api_of, llm_grant
from hutch.control.inputs import Inputs
from hutch.control.journal import Journal
from hutch.control.lifecycle import DEADLINE_GRACE, Lifecycle
from hutch.control.moves import Moves
from hutch.control.notifier import events_of, stop_of
from hutch.control.notifier import sandbox as sandbox_topic
from hutch.control.outputs import Outputs
from hutch.control.result import conclude
from hutch.control.rewinds import Rewinds
from hutch.control.views import sandbox_usage
from hutch.errors import ExecNotFound, GuestUnavailable, HutchError, InternalError, NodeUnavailable, SandboxNotRunning
from hutch.fleet import GuestClient, ProcessSpec
from hutch.model import TaskState, new_id
from hutch.store.engine import DatabaseFull
from hutch.store.events import NewEvent
from hutch.store.sandboxes import ASLEEP, LIVE, SandboxRow
from hutch.store.tasks import LeaseLost, TaskRow

log = structlog.get_logger("hutch.control")

LEASE = 30.0
LLM_URL = "http://llm.hutch"
_PAUSE = (0.1, 3.0)
_LAST_USAGE = 30.0
"""Seconds for which the end of a task waits for a node that is down, for the last figures."""


class _Stopped(Exception):
    """The task has to stop: leave what you do."""


class TaskWorker:
    """Holds the lease of one task, and works."""

    def __init__(
        self,
        context: Context,
        lifecycle: Lifecycle,
        moves: Moves,
        rewinds: Rewinds,
        journal: Journal,
        task: TaskRow,
    ) -> None:
        self._context = context
        self._lifecycle = lifecycle
        self._moves = moves
        self._journal = journal
        self._store = context.store
        self._id = task.id
        self._fence = task.fence
        self._steps: dict[str, Callable[[TaskRow], Awaitable[None]]] = {
            "boot": self._boot,
            "inputs": self._inputs,
            "agent": self._agent,
            "collect": self._collect,
            "end": self._end,
            "release": self._release,
            "rollback": rewinds.carry_out,
        }

    async def run(self) -> None:
        """Do what is left to do. Raises `LeaseLost`."""
        renewal = asyncio.create_task(self._renew())
        work = asyncio.create_task(self._work())
        try:
            await asyncio.wait({renewal, work}, return_when=asyncio.FIRST_COMPLETED)
            (work if work.done() else renewal).result()
        finally:
            renewal.cancel()
            work.cancel()
            await asyncio.gather(renewal, work, return_exceptions=True)
            await self._store.tasks.release(self._id, self._fence)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(LEASE / 3)
            await self._store.tasks.renew(self._id, self._fence, time.time() + LEASE)

    async def _work(self) -> None:
        pause = _PAUSE[0]
        while (task := await self._row()).step != "done":
            try:
                await self._steps[task.step](task)
                pause = _PAUSE[0]
                continue
            except LeaseLost:
                raise
            except _Stopped:
                continue
            except (NodeUnavailable, GuestUnavailable, SandboxNotRunning) as error:
                log.info("task waits", task=task.id, step=task.step, error=error.detail)
                await self._look_at_sandbox(task, error)
            except DatabaseFull as error:
                log.error("task waits for room", task=task.id, step=task.step, error=error.detail)
            except HutchError as error:
                await self._give_up(task, error)
            except Exception as error:
                log.exception("task failed on our side", task=task.id, step=task.step)
                await self._give_up(task, InternalError(f"{type(error).__name__} in step {task.step}"))
            await self._rest(task, pause)
            pause = min(2 * pause, _PAUSE[1])

    async def _rest(self, task: TaskRow, seconds: float) -> None:
        """Before the next try: until the sandbox is resumed or the task has to stop, if that is what it waits for."""
        topic = sandbox_topic(task.sandbox_id)
        bells = [self._context.notifier.bell(name) for name in (topic, stop_of(task.id))]
        if (await self._sandbox(task)).state not in ASLEEP:
            return await asyncio.sleep(seconds)
        rings = [asyncio.create_task(bell.wait()) for bell in bells]
        await asyncio.wait(rings, timeout=_PAUSE[1], return_when=asyncio.FIRST_COMPLETED)
        for ring in rings:
            ring.cancel()
        await asyncio.gather(*rings, return_exceptions=True)

    # ---- the steps ----

    async def _boot(self, task: TaskRow) -> None:
        if task.stop is not None:
            return await self._go(task, "end")
        row = await self._lifecycle.boot(await self._sandbox(task), llm_grant(self._context, task), DEADLINE_GRACE)
        await self._go(task, "inputs", event("status", state="running", step="inputs"), state=TaskState.RUNNING)
        log.info("task runs", task=task.id, sandbox=row.id)

    async def _inputs(self, task: TaskRow) -> None:
        if task.stop is not None:
            return await self._go(task, "end")
        sandbox, guest = await self._guest(task)
        inputs = Inputs(self._context, guest, sandbox.workdir or "/")
        for index in range(task.inputs_done, len(task.inputs)):
            await self._unless_stopped(inputs.place(task.inputs[index], task.org))
            async with self._store.database.write() as connection:
                await self._store.tasks.change(connection, task.id, self._fence, inputs_done=index + 1)
        status = event("status", state="running", step="agent")
        await self._go(task, "agent", status, exec_id=new_id("exe"), started_at=task.started_at or time.time())

    async def _agent(self, task: TaskRow) -> None:
        if (await self._store.readers.get(task.id)).exit is None:
            sandbox, guest = await self._guest(task)
            if await self._started(task, sandbox, guest):
                await AgentRun(self._context, self._moves, task, agents.get(task.agent)).follow()
        await self._go(task, "collect", event("status", state="running", step="outputs"))

    async def _collect(self, task: TaskRow) -> None:
        found: dict[str, Any] = {}
        events = []
        if task.output_globs:
            try:
                sandbox, guest = await self._guest(task)
                found = await Outputs(self._context).collect(task, guest, sandbox.workdir or "/")
            except (NodeUnavailable, GuestUnavailable):
                raise
            except SandboxNotRunning:
                pass  # it is gone, and what was in it too
            except HutchError as error:  # what the agent did stands, though its files could not be kept
                found = {"outputs_truncated": True}
                events.append(event("status", state="running", step="outputs", error=error.code, detail=str(error)))
        await self._go(task, "end", *events, **found)

    async def _end(self, task: TaskRow) -> None:
        usage = await self._last_usage(task)
        reader = await self._store.readers.get(task.id)
        async with self._store.database.write() as connection:
            current = await self._store.tasks.lock(connection, task.id)
            if current is None:
                raise LeaseLost(task.id)
            sandbox = await self._store.sandboxes.lock(connection, task.sandbox_id)
            kept = sandbox is not None and sandbox.keep and sandbox.state in LIVE  # it may be rolled back and go on
            result = conclude(current, reader)
            last = [
                event("status", state=result.state),
                event("result", **result.model_dump(mode="json")),
            ]
            await self._store.events.append(connection, task.id, last)
            await self._store.tasks.change(
                connection,
                task.id,
                self._fence,
                step="release",
                state=result.state,
                result=result.model_dump(mode="json"),
                ended_at=time.time(),
                sealed_llm_key=current.sealed_llm_key if kept else None,
                usage=current.usage | usage,
            )
        self._context.notifier.notify(events_of(task.id))
        log.info("task ended", task=task.id, state=result.state, error=result.error)

    async def _release(self, task: TaskRow) -> None:
        sandbox = await self._sandbox(task)
        if not sandbox.keep:
            await self._lifecycle.destroy(sandbox.id, "its task has ended")
        elif sandbox.state == "running" and task.placeholder is not None:  # of a paused one, at its resume
            await self._context.node_of(sandbox).set_llm(sandbox.id, None)
        await self._go(task, "done", lease_owner=None)

    # ---- parts of them ----

    async def _started(self, task: TaskRow, sandbox: SandboxRow, guest: GuestClient) -> bool:
        """Start the agent's process, if it was not; whether it was ever started."""
        with suppress(ExecNotFound):
            await guest.process(task.exec_id or "")
            return True
        if (await self._row()).stop is not None:  # also one that has come with the resume of this very sandbox
            return False
        workdir = sandbox.workdir or "/"
        prompt = await self._store.tasks.prompt(task.id)
        context = agents.AgentContext(
            prompt=prompt,
            model=task.model,
            workdir=workdir,
            llm_url=LLM_URL,
            placeholder=task.placeholder,
            providers={api_of(self._context, task.llm_provider): task.llm_provider} if task.llm_provider else {},
            provider_tools=task.provider_tools is not False,
        )
        launch = agents.get(task.agent).launch(context)
        for path, data in launch.files.items():
            await guest.files.write(path, data)
        spec = ProcessSpec(
            id=task.exec_id or "", argv=launch.argv, env=launch.env, cwd=workdir, stdin=launch.stdin, keep_all=True
        )
        await guest.start(spec)
        return True

    async def _unless_stopped(self, work: Coroutine[Any, Any, None]) -> None:
        """Do it, but leave it when the task has to stop."""
        doing = asyncio.create_task(work)
        try:
            while not doing.done():
                bell = self._context.notifier.bell(stop_of(self._id))
                if (await self._row()).stop is not None:
                    raise _Stopped
                ring = asyncio.create_task(bell.wait())
                await asyncio.wait({doing, ring}, timeout=2.0, return_when=asyncio.FIRST_COMPLETED)
                ring.cancel()
            doing.result()
        finally:
            doing.cancel()
            await asyncio.gather(doing, return_exceptions=True)

    async def _last_usage(self, task: TaskRow) -> dict[str, Any]:
        """All that the node has to say about this task, applied; the sandbox's own figures."""
        until = time.time() + _LAST_USAGE
        while True:
            try:
                await self._journal.catch_up()
                sandbox = await self._sandbox(task)
                facts = await self._context.node_of(sandbox).sandbox(sandbox.id)
            except NodeUnavailable:
                if time.time() >= until:
                    return {}
                await asyncio.sleep(0.5)
                continue
            figures = sandbox_usage(sandbox, facts).model_dump(mode="json")
            return {key: figures[key] for key in ("cpu_seconds", "memory_peak_bytes")}

    async def _look_at_sandbox(self, task: TaskRow, error: HutchError) -> None:
        """After an answer that did not come: if the sandbox is gone, the task has to stop."""
        sandbox = await self._sandbox(task)
        if sandbox.state == "running" and isinstance(error, SandboxNotRunning):
            with suppress(NodeUnavailable):
                facts = await self._context.node_of(sandbox).sandbox(sandbox.id)
                if facts is None or facts.state == "dead":
                    reason = facts.death if facts is not None else None
                    await self._lifecycle.lost(sandbox, reason or "the node does not know it any more", facts)
            sandbox = await self._sandbox(task)
        if sandbox.state not in LIVE:
            stop = {"state": "failed", "error": "sandbox_died", "detail": sandbox.reason or "the sandbox is gone"}
            await self._skip(task, stop)

    async def _give_up(self, task: TaskRow, error: HutchError) -> None:
        await self._skip(task, {"state": "failed", "error": error.code, "detail": str(error)})

    async def _skip(self, task: TaskRow, stop: dict[str, Any]) -> None:
        """Record why it cannot go on, and go to the step that can still be done."""
        following = {"boot": "end", "inputs": "end", "agent": "collect", "collect": "end", "rollback": "collect"}
        async with self._store.database.write() as connection:
            await self._store.tasks.ask_to_stop(connection, task.id, stop)
            await self._store.tasks.change(connection, task.id, self._fence, step=following.get(task.step, task.step))

    async def _go(self, task: TaskRow, step: str, *events: NewEvent, **values: Any) -> None:
        """To the next step: with its events and columns, in one transaction."""
        async with self._store.database.write() as connection:
            await self._store.tasks.change(connection, task.id, self._fence, step=step, **values)
            await self._store.events.append(connection, task.id, events)
        self._context.notifier.notify(events_of(task.id))

    async def _row(self) -> TaskRow:
        task = await self._store.tasks.get(self._id)
        if task is None or task.fence != self._fence:
            raise LeaseLost(self._id)
        return task

    async def _sandbox(self, task: TaskRow) -> SandboxRow:
        row = await self._store.sandboxes.get(task.sandbox_id)
        if row is None:
            raise LeaseLost(task.id)
        return row

    async def _guest(self, task: TaskRow) -> tuple[SandboxRow, GuestClient]:
        row = await self._sandbox(task)
        if row.state in ASLEEP and task.stop is not None:
            row = await self._moves.awake(row.id)  # it must be awake to be stopped, and to give its outputs
        if row.state != "running":
            raise not_running(row)
        return row, self._context.guest_of(row)
