"""Limits that were hit: told once in the sandbox, its task, and the task's events, whoever reports them. Memory is
reported by the node (and by the guest, which did the killing); processes and disk by the guest."""

from __future__ import annotations

from hutch.control.context import Context, event
from hutch.control.notifier import events_of
from hutch.model import LimitBreach
from hutch.store.engine import Transaction

_KEPT = 100


async def note(context: Context, connection: Transaction, sandbox_id: str, breach: LimitBreach) -> list[str]:
    """Record the breach, if it is new. Part of a transaction; answers the topics to notify after it."""
    store = context.store
    found = breach.model_dump(mode="json")
    row = await store.sandboxes.lock(connection, sandbox_id)
    if row is None or len(row.breaches) >= _KEPT or any(_same(found, known) for known in row.breaches):
        return []
    await store.sandboxes.note(connection, sandbox_id, breaches=[*row.breaches, found])
    task = await store.tasks.of_sandbox(connection, sandbox_id)
    if task is None or task.ended_at is not None:
        return []
    await store.tasks.note(connection, task.id, breaches=[*task.breaches, found])
    await store.events.append(connection, task.id, [event("limit", **found)])
    return [events_of(task.id)]


def _same(one: dict[str, object], other: dict[str, object]) -> bool:
    """Two reports of one thing: the amount that was in use may differ by the moment at which it was read."""
    return all(one.get(key) == other.get(key) for key in ("limit", "amount", "pid", "process", "action"))
