"""Takes checkpoints of a task's sandbox: snapshots to which a rollback can bring the agent back, one a turn.

A turn is over when the model has answered and the agent has said so. Then its tools run, and no call to the model is
under way: that is when its sandbox may stand still. A call that is cut would be paid for twice, so the node holds the
next one until the snapshot is taken; where a call is under way already, its end is waited for, and the checkpoint is
the next turn's. A checkpoint that fails is told, and changes nothing for the task.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass

import structlog

from hutch.control.context import Context, event
from hutch.control.moves import Moves
from hutch.control.notifier import events_of
from hutch.errors import FreezeFailed, HutchError, NodeUnavailable, SandboxNotRunning
from hutch.fleet import Node
from hutch.model import SnapshotReason, SnapshotRequest, new_id
from hutch.store.tasks import LeaseLost, TaskRow

log = structlog.get_logger("hutch.control")

_PATIENCE = 60.0
"""Seconds to wait for a moment without a call to the model."""
_SLICE = 2.0
"""Seconds of it that the node waits at once: it goes on for so long when we are killed."""
_HELD = 3.0
"""Seconds for which calls are held at most, until the freeze begins."""
_TRIES, _AGAIN = 20, 0.1
"""How often, and after how many seconds, it is tried again while an answer is being told."""
_REST = 1.0
"""How many times as long as the last one took nothing is taken: turns may come as fast as a guest likes."""


@dataclass(frozen=True)
class Halt:
    """An agent whose whole output so far is read and stored, while nothing more is read."""

    turn: int
    answering: bool
    """It has told of the beginning of an answer of the model, and not yet of its end."""
    between: bool
    """See `Outcome.between`."""
    over: bool
    """It has ended, or says that it is about to."""


Halting = Callable[[], AbstractAsyncContextManager[Halt]]


class Checkpointer:
    """For one agent run. `halted` brings its reading to a halt; `turn` is the turn that it has reached."""

    def __init__(self, context: Context, moves: Moves, task: TaskRow, turn: int, halted: Halting) -> None:
        self._context = context
        self._moves = moves
        self._task = task
        self._halted = halted
        self._turn = self._done = turn
        self._turned = asyncio.Event()
        self._took = 0.0
        self.taken = 0
        """How many were taken: each cuts all connections of the sandbox."""

    def reached(self, turn: int) -> None:
        """The agent has come to this turn."""
        if turn > self._turn:
            self._turn = turn
            self._turned.set()

    async def run(self) -> None:
        """For as long as the agent runs."""
        while self._task.checkpoints != "off":
            await self._due()
            try:
                await self._attempt()
            except LeaseLost:
                return
            except Exception:
                log.exception("checkpoint failed on our side", task=self._task.id)
            await asyncio.sleep(_REST * self._took)

    async def _attempt(self) -> None:
        try:
            for _ in range(_TRIES):
                if await self._take():
                    return
                await asyncio.sleep(_AGAIN)
        except SandboxNotRunning as error:  # paused, or gone: there is nothing to tell that its events do not
            log.info("no checkpoint", task=self._task.id, turn=self._turn, error=error.detail)
        except HutchError as error:
            await self._tell(turn=self._turn, error=error.code, detail=error.detail)

    async def _due(self) -> None:
        if self._task.checkpoints != "turns":
            return await asyncio.sleep(float(self._task.checkpoints))
        await self._turned.wait()
        self._turned.clear()

    async def _take(self) -> bool:
        """False when the agent has not told all of the last answer yet: soon it has."""
        node = await self._node()
        waiting = await self._hold(node)
        begun = time.monotonic()
        try:
            async with self._halted() as halt:
                known = halt.turn == self._done and self._task.checkpoints == "turns"
                untold = halt.answering or (halt.between and not waiting)
                if halt.over or untold or known:
                    await node.release_llm(self._task.sandbox_id)
                    return halt.over or not untold
                self._done = halt.turn
                await self._snapshot(halt.turn)
                return True
        except BaseException:
            with suppress(NodeUnavailable):
                await node.release_llm(self._task.sandbox_id)
            raise
        finally:
            self._took = time.monotonic() - begun

    async def _hold(self, node: Node) -> int:
        """How many calls are held at once."""
        until = time.monotonic() + _PATIENCE
        while not (state := await node.hold_llm(self._task.sandbox_id, _SLICE, _HELD)).held:
            if time.monotonic() >= until:
                raise FreezeFailed(f"in {_PATIENCE:g} s there was no moment without a call to the model")
        return state.waiting

    async def _snapshot(self, turn: int) -> None:
        wish = SnapshotRequest(snapshot=new_id("snp"), reason=SnapshotReason.CHECKPOINT, turn=turn, held=True)
        self.taken += 1
        record = await self._moves.snapshot(self._task.sandbox_id, wish)
        await self._tell(turn=turn, snapshot=record.id, stopped_ms=record.stopped_ms)

    async def _tell(self, **data: object) -> None:
        store, id = self._context.store, self._task.id
        async with store.database.write() as connection:
            await store.tasks.check(connection, id, self._task.fence)
            await store.events.append(connection, id, [event("checkpoint", **data)])
        self._context.notifier.notify(events_of(id))

    async def _node(self) -> Node:
        row = await self._context.store.sandboxes.get(self._task.sandbox_id)
        if row is None or row.state != "running":
            raise SandboxNotRunning(f"{self._task.sandbox_id} does not run")
        return self._context.node_of(row)
