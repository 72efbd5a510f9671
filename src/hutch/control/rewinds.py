"""Takes a task back to where it was at a snapshot of its sandbox.

The task's row says so first (step `rollback`, with all that is needed to undo it), and with that it is taken from
whoever works on it. Its next worker has the sandbox rolled back, which may be repeated, and then puts the task in the
place that is remembered with the snapshot, in one transaction. Its events go on: what the agent did on the way that was
left is told there still, but its result counts no more. What was spent stays spent.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import structlog

from hutch.control import budget
from hutch.control.context import Context, event, not_running
from hutch.control.moves import Moves
from hutch.control.notifier import events_of
from hutch.control.views import task_usage
from hutch.errors import Conflict, HutchError, InternalError, NodeUnavailable, SandboxNotRunning
from hutch.model import Budget, SnapshotReason, TaskState, new_id
from hutch.store.bookmarks import Bookmark
from hutch.store.engine import DatabaseFull, Transaction
from hutch.store.sandboxes import LIVE, SandboxRow
from hutch.store.tasks import LeaseLost, TaskRow

log = structlog.get_logger("hutch.control")

_BEFORE = ("step", "state", "stop", "result", "ended_at")
"""Columns that a rollback that fails puts back."""
_ENDED = ("release", "done")
_PAST = ("end", *_ENDED)
"""Steps at which all of the agent's output is read and its files are collected."""


class Rewinds:
    """Of one server process."""

    def __init__(self, context: Context, moves: Moves) -> None:
        self._context = context
        self._store = context.store
        self._moves = moves
        self._awaited: dict[str, asyncio.Future[None]] = {}
        """Who waits for which rollback; each has a safety snapshot of its own."""

    async def begin(self, row: SandboxRow, target: Bookmark, by: str | None) -> asyncio.Future[None]:
        """Write down that the task goes back to `target`, for its next worker to do; done, or an error, when that is.
        Raises `Conflict`, `SandboxNotRunning`."""
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        safety = new_id("snp")
        self._awaited[safety] = answer
        try:
            async with self._store.database.write() as connection:
                await self._seize(connection, row.id, target, safety, by)
        except BaseException:
            del self._awaited[safety]
            raise
        return answer

    async def stays(self, task: TaskRow, target: Bookmark) -> bool:
        """Whether the task has ended, and had already ended so at `target`: going there is none of its business."""
        if target.task_id != task.id or task.step != "done" or target.task["step"] not in _PAST:
            return False
        reader = await self._store.readers.get(task.id)
        return replace(reader, event_bytes=0) == replace(target.reader, event_bytes=0)

    async def carry_out(self, task: TaskRow) -> None:
        """The step `rollback`, on behalf of the worker that holds the task's lease. Whoever waits for it has an answer
        when this ends, unless the database is full: then only that is waited for. Raises `NodeUnavailable` and
        `DatabaseFull` (come again), `LeaseLost`, `InternalError`."""
        wish = task.rewind or {}
        safety = wish.get("safety", "")
        try:
            self._answer(safety, await self._try(task, wish))
        except DatabaseFull:
            raise
        except HutchError as error:
            self._answer(safety, error)
            raise
        except (LeaseLost, asyncio.CancelledError):  # another worker goes on with it
            self._answer(safety, _under_way(task.id))
            raise
        except Exception as error:
            self._answer(safety, InternalError(f"{task.id} was not taken back: {type(error).__name__}"))
            raise

    async def _try(self, task: TaskRow, wish: dict[str, Any]) -> HutchError | None:
        """None when the task is there; what kept it where it was."""
        try:
            await self._moves.rollback(task.sandbox_id, wish["snapshot"], wish["by"], wish["safety"])
        except (NodeUnavailable, DatabaseFull):
            raise
        except HutchError as error:
            await self._stay(task, wish["before"])
            log.warning("task not taken back", task=task.id, snapshot=wish["snapshot"], error=error.detail)
            return error
        await self._arrive(task, wish)
        return None

    async def _seize(
        self, connection: Transaction, sandbox_id: str, target: Bookmark, safety: str, by: str | None
    ) -> None:
        task = await self._store.tasks.of_sandbox(connection, sandbox_id)
        row = await self._store.sandboxes.lock(connection, sandbox_id)
        if task is None or row is None or row.state not in LIVE:
            raise not_running(row) if row is not None else SandboxNotRunning(f"{sandbox_id} is gone")
        _check(task, row)
        await self._context.places.note(connection, task, safety, SnapshotReason.SAFETY)
        before = {name: getattr(task, name) for name in _BEFORE}
        before["paused_time"] = task.usage.get("paused_time", 0.0)
        await self._store.tasks.seize(
            connection,
            task.id,
            step="rollback",
            rewind={"snapshot": target.snapshot, "safety": safety, "by": by, "before": before},
            state=TaskState.RUNNING,
            stop=None,
            result=None,
            ended_at=None,
            usage=task.usage | {"paused_time": before["paused_time"] + _rested(task, row)},
        )

    async def _arrive(self, task: TaskRow, wish: dict[str, Any]) -> None:
        async with self._store.database.write() as connection:
            target = await self._store.bookmarks.lock(connection, wish["snapshot"])
            current = await self._store.tasks.lock(connection, task.id)
            if target is None or current is None:
                raise InternalError(f"where {task.id} was at {wish['snapshot']} is not known any more")
            reader = await self._store.readers.lock(connection, task.id)
            place, most = target.task, max(reader.event_bytes, target.reader.event_bytes)
            step = place["step"] if place["step"] in ("inputs", "agent") else "collect"
            await self._store.readers.put(connection, replace(target.reader, event_bytes=most))
            await self._store.tasks.change(
                connection,
                task.id,
                task.fence,
                step=step,
                rewind=None,
                stop=current.stop or place["stop"],  # it may have been cancelled on the way
                exec_id=place["exec_id"],
                inputs_done=place["inputs_done"],
                turn=target.turn,
                output_files=[],
                outputs_truncated=False,
                artifact=None,
                artifact_bytes=None,
                warned=[mark for mark in current.warned if not mark.endswith(":exceeded")],
            )
            told = {"turn": target.turn, "snapshot": target.snapshot, "safety": wish["safety"]}
            news = [event("rolled_back", **told), event("status", state="running", step=step)]
            await self._store.events.append(connection, task.id, news)
        self._context.notifier.notify(events_of(task.id))
        log.info("task taken back", task=task.id, **told)

    async def _stay(self, task: TaskRow, before: dict[str, Any]) -> None:
        """It is where it was."""
        async with self._store.database.write() as connection:
            current = await self._store.tasks.lock(connection, task.id)
            if current is None:
                raise LeaseLost(task.id)
            values = {name: before[name] for name in _BEFORE}
            if before["ended_at"] is None:
                values["stop"] = current.stop or before["stop"]
            else:
                values["step"] = "release"  # again: it may have been given back what it had
                # Of what was added meanwhile, nothing was before its end. What goes on has its pauses counted.
                values["usage"] = current.usage | {"paused_time": before["paused_time"]}
            await self._store.tasks.change(connection, task.id, task.fence, rewind=None, **values)
        self._context.notifier.notify(events_of(task.id))

    def _answer(self, safety: str, error: HutchError | None) -> None:
        answer = self._awaited.pop(safety, None)
        if answer is None or answer.done():
            return
        if error is None:
            answer.set_result(None)
        else:
            answer.set_exception(error)
            answer.exception()  # whoever asked may be gone


def _check(task: TaskRow, row: SandboxRow) -> None:
    """Raise what speaks against taking it back."""
    if task.step == "rollback":
        raise _under_way(task.id)
    if task.step in _ENDED and not row.keep:
        raise SandboxNotRunning(f"{task.id} has ended, and {row.id} goes with it", state=row.state)
    if task.placeholder is not None and task.sealed_llm_key is None:
        raise Conflict(
            f"the model provider's key of {task.id} was not kept",
            hint="Fork the snapshot, and run a new task in the fork's place.",
        )
    usage = task_usage(task, row.paused_at)
    alarms = budget.assess(Budget.model_validate(task.budget), run_time=usage.run_time, llm=usage.llm)
    if used := [alarm for alarm in alarms if alarm.level == "exceeded"]:
        raise Conflict(
            f"{task.id} would end at once: {budget.stop_for(used[0])['detail']}",
            hint="What a task has spent stays spent, wherever it goes back to. Fork the snapshot instead.",
        )


def _rested(task: TaskRow, row: SandboxRow) -> float:
    """Seconds since a task ended, which are no run time; without those for which its sandbox was paused, as its resume
    counts them."""
    if task.ended_at is None:
        return 0.0
    return max(0.0, (row.paused_at or time.time()) - task.ended_at)


def _under_way(task_id: str) -> Conflict:
    return Conflict(f"{task_id} is just being taken back", hint="Wait for that, then try again.")
