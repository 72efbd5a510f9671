"""Tasks. A worker claims a task by a lease with a fencing number; each of its writes names the number, and one with an
older number is refused (`LeaseLost`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import null, or_, select, update

from hutch.store import audit
from hutch.store.engine import Database, Transaction
from hutch.store.pages import after_cursor
from hutch.store.tables import prompts, tasks


class LeaseLost(Exception):
    """Another worker has the task now: stop, and write nothing."""


@dataclass(frozen=True)
class TaskRow:
    """One task. Times are Unix seconds."""

    id: str
    org: str
    sandbox_id: str
    agent: str
    prompt: str
    created_at: float
    model: str | None = None
    state: str = "queued"
    step: str = "boot"
    fence: int = 0
    lease_owner: str | None = None
    lease_until: float = 0.0
    budget: dict[str, Any] = field(default_factory=dict)
    usage: dict[str, Any] = field(default_factory=dict)
    warned: list[str] = field(default_factory=list)
    breaches: list[dict[str, Any]] = field(default_factory=list)
    inputs: list[dict[str, Any]] = field(default_factory=list)
    inputs_done: int = 0
    output_globs: list[str] = field(default_factory=list)
    output_files: list[list[Any]] = field(default_factory=list)
    outputs_truncated: bool = False
    artifact: str | None = None
    artifact_bytes: int | None = None
    sealed_llm_key: bytes | None = None
    llm_provider: str | None = None
    provider_tools: bool | None = None
    placeholder: str | None = None
    exec_id: str | None = None
    stop: dict[str, Any] | None = None
    started_at: float | None = None
    ended_at: float | None = None
    result: dict[str, Any] | None = None
    last_offset: int = 0
    checkpoints: Any = "off"
    turn: int = 0
    rewind: dict[str, Any] | None = None


class Tasks:
    """The `tasks` and `prompts` tables."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def insert(self, connection: Transaction, row: TaskRow, prompt: str) -> None:
        await connection.execute(tasks.insert(), vars(row))
        await connection.execute(prompts.insert(), {"task_id": row.id, "text": prompt})
        made = {"sandbox": row.sandbox_id, "agent": row.agent, "model": row.model}
        await audit.append(connection, audit.Event(row.org, "task", row.id, row.state, made))
        if row.sealed_llm_key is not None:
            await audit.append(connection, audit.Event(row.org, "secret", row.id, "granted", {"kind": "llm_key"}))

    async def get(self, task_id: str) -> TaskRow | None:
        rows = await self._select(select(tasks).where(tasks.c.id == task_id))
        return rows[0] if rows else None

    async def of_sandboxes(self, sandbox_ids: Sequence[str]) -> dict[str, TaskRow]:
        """The tasks of these sandboxes, by sandbox."""
        if not sandbox_ids:
            return {}
        rows = await self._select(select(tasks).where(tasks.c.sandbox_id.in_(sandbox_ids)))
        return {row.sandbox_id: row for row in rows}

    async def of_sandbox(self, connection: Transaction, sandbox_id: str) -> TaskRow | None:
        """The sandbox's task, locked until the end of the transaction."""
        statement = select(tasks).where(tasks.c.sandbox_id == sandbox_id).with_for_update()
        row = (await connection.execute(statement)).mappings().first()
        return TaskRow(**row) if row is not None else None

    async def prompt(self, task_id: str) -> str:
        """The whole text."""
        async with self._database.read() as connection:
            statement = select(prompts.c.text).where(prompts.c.task_id == task_id)
            return str((await connection.execute(statement)).scalar_one())

    async def page(
        self,
        org: str,
        states: Sequence[str] = (),
        sandbox_id: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> list[TaskRow]:
        """Newest first."""
        statement = select(tasks).where(tasks.c.org == org)
        if states:
            statement = statement.where(tasks.c.state.in_(states))
        if sandbox_id is not None:
            statement = statement.where(tasks.c.sandbox_id == sandbox_id)
        if cursor is not None:
            statement = statement.where(after_cursor(tasks, cursor))
        return await self._select(statement.order_by(tasks.c.created_at.desc(), tasks.c.id.desc()).limit(limit))

    async def unfinished(self) -> list[TaskRow]:
        """All that still have a step to do."""
        return await self._select(select(tasks).where(tasks.c.step != "done").order_by(tasks.c.created_at))

    async def with_artifact(self, ended_before: float, limit: int = 100) -> list[TaskRow]:
        """Those whose artifact is old enough to be forgotten."""
        statement = select(tasks).where(tasks.c.ended_at < ended_before, tasks.c.artifact.is_not(None))
        return await self._select(statement.limit(limit))

    async def claim(self, task_id: str, owner: str, now: float, lease: float) -> TaskRow | None:
        """Take the task for `lease` seconds; None when another has it or nothing is left to do."""
        free = or_(tasks.c.lease_owner.is_(None), tasks.c.lease_owner == owner, tasks.c.lease_until < now)
        statement = (
            update(tasks)
            .where(tasks.c.id == task_id, tasks.c.step != "done", free)
            .values(lease_owner=owner, lease_until=now + lease, fence=tasks.c.fence + 1)
            .returning(tasks)
        )
        async with self._database.write() as connection:
            row = (await connection.execute(statement)).mappings().one_or_none()
        return TaskRow(**row) if row is not None else None

    async def renew(self, task_id: str, fence: int, until: float) -> None:
        """Hold the lease longer. Raises `LeaseLost`."""
        async with self._database.write() as connection:
            await self.change(connection, task_id, fence, lease_until=until)

    async def release(self, task_id: str, fence: int) -> None:
        """Give the lease back; nothing happens when it was lost before."""
        statement = update(tasks).where(tasks.c.id == task_id, tasks.c.fence == fence)
        async with self._database.write() as connection:
            await connection.execute(statement.values(lease_owner=None, lease_until=0.0))

    async def break_leases(self) -> None:
        """Free every task. Only for a process that knows that it is the only one."""
        async with self._database.write() as connection:
            await connection.execute(update(tasks).where(tasks.c.step != "done").values(lease_owner=None))

    async def change(self, connection: Transaction, task_id: str, fence: int, **values: Any) -> None:
        """Set columns on behalf of the worker that holds the lease. Raises `LeaseLost`, which undoes the whole
        transaction."""
        statement = update(tasks).where(tasks.c.id == task_id, tasks.c.fence == fence).values(**values)
        org = (await connection.execute(statement.returning(tasks.c.org))).scalar_one_or_none()
        if org is None:
            raise LeaseLost(task_id)
        if "state" in values:
            await audit.append(connection, audit.Event(org, "task", task_id, values["state"]))

    async def check(self, connection: Transaction, task_id: str, fence: int) -> None:
        """Raises `LeaseLost` when another worker has claimed the task; holds that off until the transaction ends."""
        statement = update(tasks).where(tasks.c.id == task_id, tasks.c.fence == fence).values(fence=fence)
        if (await connection.execute(statement)).rowcount != 1:
            raise LeaseLost(task_id)

    async def seize(self, connection: Transaction, task_id: str, **values: Any) -> None:
        """Set columns, and take the task from whoever works on it: its next write is refused."""
        statement = update(tasks).where(tasks.c.id == task_id)
        changed = statement.values(**values, fence=tasks.c.fence + 1, lease_owner=None).returning(tasks.c.org)
        org = (await connection.execute(changed)).scalar_one_or_none()
        if org is not None and "state" in values:
            await audit.append(connection, audit.Event(org, "task", task_id, values["state"], {"rollback": True}))

    async def note(self, connection: Transaction, task_id: str, **values: Any) -> None:
        """Set columns that are not the worker's (usage, breaches, warned)."""
        await connection.execute(update(tasks).where(tasks.c.id == task_id).values(**values))

    async def ask_to_stop(self, connection: Transaction, task_id: str, stop: dict[str, Any]) -> bool:
        """Record why the agent has to stop. The first reason stays; whether this was it."""
        statement = (
            update(tasks)
            .where(tasks.c.id == task_id, tasks.c.ended_at.is_(None), tasks.c.stop.is_(null()))
            .values(stop=stop)
        )
        return (await connection.execute(statement)).rowcount == 1

    async def lock(self, connection: Transaction, task_id: str) -> TaskRow | None:
        """The row, locked until the end of the transaction."""
        row = (await connection.execute(select(tasks).where(tasks.c.id == task_id).with_for_update())).mappings()
        found = row.one_or_none()
        return TaskRow(**found) if found is not None else None

    async def _select(self, statement: Any) -> list[TaskRow]:
        async with self._database.read() as connection:
            rows = (await connection.execute(statement)).mappings().all()
        return [TaskRow(**row) for row in rows]
