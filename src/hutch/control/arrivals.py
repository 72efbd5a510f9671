"""Writes down where a move has brought a sandbox, with what hangs on it: its token, its meter, its task's clock, and
the permission to call a model provider."""

from __future__ import annotations

import time
from typing import Any

import structlog

from hutch.control import secret_grants
from hutch.control.context import Context
from hutch.control.grants import llm_grant
from hutch.control.lifecycle import Lifecycle
from hutch.control.notifier import events_of, sandbox, stop_of
from hutch.control.views import asleep_usage, measured
from hutch.errors import HutchError, NodeUnavailable
from hutch.model import NodeSandbox
from hutch.store.engine import Transaction
from hutch.store.sandboxes import SandboxRow

log = structlog.get_logger("hutch.control")

_FORGOTTEN = "the node does not know it any more"
_MEMORY_LOST = {
    "state": "failed",
    "error": "memory_lost",
    "detail": "the sandbox lost its memory, and the agent with it: it was booted from its disk (`fallback: disk`), as "
    "its memory could not be thawed",
}


class Arrivals:
    """The end of a move."""

    def __init__(self, context: Context, lifecycle: Lifecycle) -> None:
        self._context = context
        self._rows = context.store.sandboxes
        self._lifecycle = lifecycle

    async def settle(self, row: SandboxRow) -> None:
        """Ask the node what it is, and write that down. Raises `NodeUnavailable`."""
        facts = await self._context.node_of(row).sandbox(row.id)
        if facts is None:
            await self._lifecycle.lost(row, _FORGOTTEN)
        else:
            await self.write(row, facts)

    async def write(self, row: SandboxRow, facts: NodeSandbox) -> bool:
        """Have the row say what the node says. False when it has changed since it was read. Raises
        `NodeUnavailable` while the node is in the middle of something."""
        if facts.state == "dead":  # also an answer to a move: it was made, and then a deletion came
            await self._lifecycle.lost(row, facts.death or _FORGOTTEN, facts)
            return True
        if facts.state not in ("running", "paused", "hibernated"):
            raise NodeUnavailable(f"{row.id} is {facts.state} on its node just now")
        if facts.state == "running":
            await self._grant(row)
            if row.sealed_secrets is not None:
                await secret_grants.tell(self._context, row)
            await self._mount(row, facts)
        async with self._context.store.database.write() as connection:
            current = await self._rows.lock(connection, row.id)
            if current is None or current.version != row.version:
                return False
            values = _paused(current, facts)
            if facts.state == "running":
                values = _running(current, facts)
                await self._stop_the_clock(connection, current, _since(facts))
                if current.paused_at is not None and facts.resumed_memory is False:
                    await self._end_agent(connection, current)
            await self._rows.change_in(connection, row.id, row.version, **values)
        self._context.notifier.notify(sandbox(row.id))
        return True

    async def _grant(self, row: SandboxRow) -> None:
        """A task may have ended while its sandbox was paused, and with it the permission that the node has kept for
        it; and a node that was restarted has none to give back. Before the row says `running`, or a crash would leave
        it so."""
        task = (await self._context.store.tasks.of_sandboxes([row.id])).get(row.id)
        if task is not None and task.placeholder is not None:
            await self._context.node_of(row).set_llm(row.id, llm_grant(self._context, task))

    async def _mount(self, row: SandboxRow, facts: NodeSandbox) -> None:
        """Its volumes, before anybody is told that it runs. Where that fails it runs without them, and they are tried
        again."""
        try:
            await self._lifecycle.mounts.attach(row, facts.guest_token or "")
        except HutchError as error:
            log.warning("volumes are not mounted yet", sandbox=row.id, error=error.detail)

    async def _end_agent(self, connection: Transaction, row: SandboxRow) -> None:
        """In what was booted from a disk no agent goes on, and none is to start again where one was at work. In the
        transaction that has the row say `running`, so that nobody finds the one without the other."""
        task = await self._context.store.tasks.of_sandbox(connection, row.id)
        if task is None or task.step != "agent":
            return
        if await self._context.store.tasks.ask_to_stop(connection, task.id, _MEMORY_LOST):
            self._context.notifier.notify(stop_of(task.id))

    async def _stop_the_clock(self, connection: Transaction, row: SandboxRow, until: float) -> None:
        """Paused time is no run time of the task, unless it has ended meanwhile."""
        task = await self._context.store.tasks.of_sandbox(connection, row.id)
        if row.paused_at is None or task is None or task.started_at is None:
            return
        until = min(until, task.ended_at) if task.ended_at is not None else until
        paused = task.usage.get("paused_time", 0.0) + max(0.0, until - max(row.paused_at, task.started_at))
        await self._context.store.tasks.note(connection, task.id, usage=task.usage | {"paused_time": paused})
        self._context.notifier.notify(events_of(task.id))


def _paused(row: SandboxRow, facts: NodeSandbox) -> dict[str, Any]:
    return {
        "state": "paused",
        "snapshot": facts.snapshot or row.taking or row.snapshot,
        "taking": None,
        "guest_token": None,
        "paused_at": row.paused_at if row.paused_at is not None else _since(facts),
        "hibernated": facts.state == "hibernated",
        "usage": row.usage | measured(facts) | {"stored_bytes": facts.disk_bytes},
    }


def _running(row: SandboxRow, facts: NodeSandbox) -> dict[str, Any]:
    resumed = row.resumed
    if facts.resumed_memory is not None and (row.paused_at is not None or row.state == "rolling_back"):
        resumed = {"memory": facts.resumed_memory, "ms": facts.resumed_ms, "at": _since(facts)}
    return {
        "state": "running",
        "taking": None,
        "guest_token": facts.guest_token,
        "guest_user": facts.user,
        "workdir": facts.workdir,
        "paused_at": None,
        "hibernated": False,
        "resumed": resumed,
        "last_active": time.time(),
        "usage": row.usage | asleep_usage(row, _since(facts)) | {"stored_bytes": 0},
    }


def _since(facts: NodeSandbox) -> float:
    """When the node paused or resumed it: we may have been gone for hours, and so may the node."""
    now = time.time()
    return min(now, facts.since) if facts.since is not None else now
