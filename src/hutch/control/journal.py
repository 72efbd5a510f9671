"""Reads a node's journal and applies it: each page of entries and the new cursor in one transaction, so that every
fact takes effect once, whenever anyone is killed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import structlog
from pydantic import ValidationError

from hutch.control import budget, limits
from hutch.control.context import Context, event
from hutch.control.lifecycle import Lifecycle
from hutch.control.notifier import events_of, stop_of
from hutch.errors import HutchError, NodeUnavailable
from hutch.fleet import Node
from hutch.model import Budget, JournalEntry, LimitBreach, LlmUsage
from hutch.model.node import JournalKind
from hutch.store.audit import Acting, Event, append
from hutch.store.engine import Transaction
from hutch.store.tasks import TaskRow

log = structlog.get_logger("hutch.control")

_WAIT = 20.0
_RETRY = (0.1, 2.0)
_RECORDED: dict[JournalKind, tuple[str, str]] = {
    "limit": ("limit", "reached"),
    "llm_auth_failed": ("secret", "refused"),
    "llm_budget_exceeded": ("budget", "exceeded"),
}
"""Kinds of entries that stand in the audit log as well: action and outcome."""


class Journal:
    """The journal of one node."""

    def __init__(self, context: Context, lifecycle: Lifecycle, node: Node) -> None:
        self._context = context
        self._lifecycle = lifecycle
        self._node = node
        self._id: str | None = None
        self._reconcile: Callable[[], None] = lambda: None

    async def follow(self, reconcile: Callable[[], None]) -> None:
        """Apply entries as they come, for ever. `reconcile` is called whenever the node answers again, and when a row
        may not say what the node says."""
        self._reconcile = reconcile
        pause = _RETRY[0]
        while True:
            try:
                await self._greet()
                reconcile()
                pause = _RETRY[0]
                while True:
                    await self._advance(_WAIT)
            except NodeUnavailable:
                self._id = None
            except HutchError as error:
                log.error("node's journal cannot be read", node=self._node.name, error=str(error))
            except Exception:
                log.exception("node's journal cannot be applied", node=self._node.name)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _RETRY[1])

    @property
    def connected(self) -> bool:
        """Whether the node answered when it was last asked."""
        return self._id is not None

    async def catch_up(self) -> None:
        """Apply all that the node has written until now. Raises `NodeUnavailable`."""
        await self._greet()
        while await self._advance(0.0):
            pass

    async def _greet(self) -> None:
        if self._id is None:
            self._id = (await self._node.info()).node

    async def _advance(self, wait: float) -> int:
        """Read and apply one page; how many entries it had."""
        node_id = self._id
        if node_id is None:
            raise NodeUnavailable("the node does not answer")
        before = await self._context.store.cursors.get(node_id)
        entries = await self._node.journal(before, wait)
        if entries:
            topics = await self._apply(node_id, before, entries)
            self._context.notifier.notify(*topics)
        return len(entries)

    async def _apply(self, node_id: str, before: int, entries: list[JournalEntry]) -> list[str]:
        """Apply a page, unless someone else has applied it meanwhile."""
        topics: list[str] = []
        async with self._context.store.database.write() as connection:
            if await self._context.store.cursors.advance(connection, node_id, before, entries[-1].seq):
                for entry in _condensed(entries):
                    topics += await self._apply_entry(connection, entry)
                await append(connection, *await self._records(connection, entries))
        return topics

    async def _records(self, connection: Transaction, entries: list[JournalEntry]) -> list[Event]:
        """What goes on in sandboxes, and what they were refused, for the audit log."""
        found, owners = list[Event](), dict[str, str | None]()
        for entry in entries:
            if (told := _told(entry)) is None:
                continue
            if entry.sandbox not in owners:
                owners[entry.sandbox] = await self._context.store.sandboxes.owner(connection, entry.sandbox)
            if (org := owners[entry.sandbox]) is not None:
                action, outcome, detail = told
                by = Acting(entry.sandbox)
                found.append(Event(org, action, entry.sandbox, outcome, detail, by=by, time=entry.time))
        return found

    async def _apply_entry(self, connection: Transaction, entry: JournalEntry) -> list[str]:
        try:
            match entry.kind:
                case "sandbox_dead":
                    return await self._dead(connection, entry)
                case "limit":
                    breach = LimitBreach.model_validate(entry.data)
                    return await limits.note(self._context, connection, entry.sandbox, breach)
                case "egress_refused":
                    return await self._refused(connection, entry)
                case "llm_usage":
                    return await self._usage(connection, entry)
                case "llm_org_usage":
                    await self._spent(connection, entry)
                    return []
                case "llm_auth_failed":
                    detail = f"{entry.data.get('provider')} refused the key (status {entry.data.get('status')})"
                    stop = {"state": "failed", "error": "llm_auth_failed", "detail": detail}
                    return await self._stop(connection, entry.sandbox, stop)
                case "llm_budget_exceeded":
                    return await self._exceeded(connection, entry)
                case "sandbox_paused" | "sandbox_resumed" | "sandbox_rolled_back":
                    await self._moved(connection, entry)
                    return [f"sandbox:{entry.sandbox}"]
                case "sandbox_running" | "activity":
                    return []
        except (ValidationError, KeyError, TypeError) as error:
            log.error("journal entry skipped", seq=entry.seq, kind=entry.kind, error=str(error))
            return []

    async def _dead(self, connection: Transaction, entry: JournalEntry) -> list[str]:
        figures: dict[str, Any] = {
            key: entry.data[key] for key in ("cpu_seconds", "memory_peak_bytes") if key in entry.data
        }
        reason = str(entry.data.get("reason") or "the sandbox has died")
        task_id = await self._lifecycle.died(connection, entry.sandbox, reason, figures)
        return [f"sandbox:{entry.sandbox}", *([stop_of(task_id)] if task_id is not None else [])]

    async def _moved(self, connection: Transaction, entry: JournalEntry) -> None:
        """An entry may be older than the row, so it is no reason to change it; but one to compare the two soon."""
        row = await self._context.store.sandboxes.lock(connection, entry.sandbox)
        if row is not None and row.state == ("running" if entry.kind == "sandbox_paused" else "paused"):
            self._reconcile()

    async def _usage(self, connection: Transaction, entry: JournalEntry) -> list[str]:
        usage = LlmUsage.model_validate(entry.data["usage"])
        store, totals = self._context.store, usage.model_dump(mode="json")
        row = await store.sandboxes.lock(connection, entry.sandbox)
        if row is not None:
            await store.sandboxes.note(connection, entry.sandbox, usage=row.usage | {"llm": totals})
        task = await store.tasks.of_sandbox(connection, entry.sandbox)
        if task is None or task.ended_at is not None:
            return []
        await store.tasks.note(connection, task.id, usage=task.usage | {"llm": totals})
        await store.events.append(connection, task.id, [event("usage", **totals)])
        alarms = budget.assess(Budget.model_validate(task.budget), llm=usage, said=task.warned)
        await budget.sound(self._context, connection, task, alarms)
        return [events_of(task.id), stop_of(task.id)]

    async def _spent(self, connection: Transaction, entry: JournalEntry) -> None:
        usage = LlmUsage.model_validate(entry.data["usage"]).model_dump(mode="json")
        org, day = str(entry.data["org"]), str(entry.data["day"])
        assert self._id is not None  # whoever reads entries knows whose they are
        await self._context.store.spending.note(connection, org, day, self._id, usage)

    async def _refused(self, connection: Transaction, entry: JournalEntry) -> list[str]:
        task = await self._context.store.tasks.of_sandbox(connection, entry.sandbox)
        if task is None or task.ended_at is not None:
            return []
        await self._context.store.events.append(connection, task.id, [event("egress", **entry.data)])
        return [events_of(task.id)]

    async def _exceeded(self, connection: Transaction, entry: JournalEntry) -> list[str]:
        task = await self._context.store.tasks.of_sandbox(connection, entry.sandbox)
        if task is None:
            return []
        alarm = budget.Alarm(entry.data["part"], "exceeded", entry.data["used"], entry.data["limit"])
        await budget.sound(self._context, connection, task, [alarm])
        return [events_of(task.id), stop_of(task.id)]

    async def _stop(self, connection: Transaction, sandbox_id: str, stop: dict[str, Any]) -> list[str]:
        task: TaskRow | None = await self._context.store.tasks.of_sandbox(connection, sandbox_id)
        if task is None:
            return []
        await self._context.store.tasks.ask_to_stop(connection, task.id, stop)
        return [stop_of(task.id)]


def _told(entry: JournalEntry) -> tuple[str, str, dict[str, Any]] | None:
    """Action, outcome and detail of an entry that stands in the audit log."""
    if entry.kind == "activity":
        match entry.data:
            case {"action": str(action), "outcome": str(outcome), "detail": dict(detail)}:
                return action, outcome, detail
    if entry.kind not in _RECORDED:
        return None
    return *_RECORDED[entry.kind], entry.data


def _condensed(entries: list[JournalEntry]) -> list[JournalEntry]:
    """Usage entries are running totals: of those of one sandbox, or one organisation and day, in a page, only the last
    says anything."""
    last = {_total(entry): entry.seq for entry in entries}
    return [entry for entry in entries if _total(entry) is None or last[_total(entry)] == entry.seq]


def _total(entry: JournalEntry) -> tuple[str, str, str] | None:
    """Which running total it is."""
    match entry.kind:
        case "llm_usage":
            return (entry.kind, entry.sandbox, "")
        case "llm_org_usage":
            return (entry.kind, str(entry.data.get("org")), str(entry.data.get("day")))
    return None
