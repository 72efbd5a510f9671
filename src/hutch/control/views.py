"""Rows of the database as the models that the API shows."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from hutch.model import (
    Budget,
    Event,
    LimitBreach,
    NodeSandbox,
    OutputFile,
    Resumed,
    Sandbox,
    SandboxState,
    Snapshot,
    SnapshotRecord,
    Task,
    TaskResult,
    TaskState,
    Usage,
)
from hutch.model.event import EventType
from hutch.store.events import EventRow
from hutch.store.sandboxes import SandboxRow
from hutch.store.tasks import TaskRow

_SHOWN = {"pausing": "running", "hibernating": "running", "resuming": "paused", "rolling_back": "running"}
"""What is said of a sandbox on the way from one state to the other: where it comes from."""
_ASLEEP = ("paused_time", "hibernated_time", "paused_byte_seconds", "hibernated_byte_seconds")


def row_states(wanted: Sequence[SandboxState]) -> tuple[list[str], bool | None]:
    """All states of rows that are shown as one of these; and, where only one of the two is wanted, whether the paused
    are to be the hibernated ones."""
    paused, hibernated = SandboxState.PAUSED in wanted, SandboxState.HIBERNATED in wanted
    stored = {state for state in wanted if state is not SandboxState.HIBERNATED}
    stored |= {SandboxState.PAUSED} if hibernated else set()
    states = [*stored, *(state for state, shown in _SHOWN.items() if SandboxState(shown) in stored)]
    return states, hibernated if paused != hibernated else None


def shown_state(row: SandboxRow) -> SandboxState:
    """What is said of a row."""
    state = SandboxState(_SHOWN.get(row.state, row.state))
    return SandboxState.HIBERNATED if state is SandboxState.PAUSED and row.hibernated else state


def sandbox_view(row: SandboxRow, task: TaskRow | None, facts: NodeSandbox | None = None) -> Sandbox:
    """A sandbox with its task; `facts` are fresher figures of the node."""
    return Sandbox.model_validate(
        {
            "id": row.id,
            "state": shown_state(row),
            "template": row.template,
            "resources": row.resources,
            "network": row.network,
            "secrets": row.secrets,
            "labels": row.labels,
            "identity": row.identity or {},
            "created_by": row.created_by,
            "forked_from": row.forked_from,
            "volumes": [{"name": mount["name"], "path": mount["path"]} for mount in row.volumes or ()],
            "created_at": moment(row.created_at),
            "started_at": moment(row.started_at),
            "ended_at": moment(row.ended_at),
            "deadline": moment(row.deadline),
            "idle_timeout": row.idle_timeout,
            "paused_at": moment(row.paused_at) if row.ended_at is None else None,
            "snapshot": row.snapshot if row.state in ("paused", "resuming") else None,
            "start": row.start,
            "start_reason": row.start_reason,
            "resumed": _resumed(row),
            "fallback": row.fallback,
            "reason": row.reason,
            "breaches": [LimitBreach.model_validate(breach) for breach in row.breaches],
            "usage": sandbox_usage(row, facts),
            "task": task_view(task, row.paused_at) if task is not None else None,
        }
    )


def sandbox_usage(row: SandboxRow, facts: NodeSandbox | None = None) -> Usage:
    """The meter: what the row has, with the fresher of the node's figures."""
    usage = Usage.model_validate(row.usage)
    asleep = asleep_usage(row, row.ended_at)
    slept = asleep["paused_time"] + asleep["hibernated_time"]
    run_time = max(0.0, _elapsed(row.started_at, row.ended_at) - slept)
    fresh: dict[str, object] = {"run_time": run_time, **asleep}
    if row.ended_at is not None:
        fresh["stored_bytes"] = 0
    if facts is not None:
        fresh["cpu_seconds"] = max(usage.cpu_seconds, facts.cpu_seconds)
        fresh["memory_peak_bytes"] = max(usage.memory_peak_bytes, facts.memory_peak_bytes)
        fresh["llm"] = facts.llm if facts.llm.requests >= usage.llm.requests else usage.llm
    return usage.model_copy(update=fresh)


def measured(facts: NodeSandbox | None) -> dict[str, Any]:
    """What the node has measured of it, for the meter in its row."""
    if facts is None:
        return {}
    found: dict[str, Any] = {"cpu_seconds": facts.cpu_seconds, "memory_peak_bytes": facts.memory_peak_bytes}
    if facts.llm.requests:
        found["llm"] = facts.llm.model_dump(mode="json")
    return found


def asleep_usage(row: SandboxRow, until: float | None = None) -> dict[str, float]:
    """Seconds in which it was paused, and hibernated, up to now, and these times the bytes that were kept of it."""
    total = {name: float(row.usage.get(name, 0.0)) for name in _ASLEEP}
    kind, seconds = "hibernated" if row.hibernated else "paused", _elapsed(row.paused_at, until)
    total[f"{kind}_time"] += seconds
    total[f"{kind}_byte_seconds"] += seconds * row.usage.get("stored_bytes", 0)
    return total


def task_usage(row: TaskRow, paused_at: float | None = None) -> Usage:
    """The meter; `paused_at`: since when its sandbox is paused, if it is."""
    usage = Usage.model_validate(row.usage)
    if row.started_at is None:
        return usage
    paused = usage.paused_time
    if paused_at is not None:
        paused += _elapsed(max(paused_at, row.started_at), row.ended_at)
    run_time = max(0.0, _elapsed(row.started_at, row.ended_at) - paused)
    return usage.model_copy(update={"run_time": run_time, "paused_time": paused})


def task_view(row: TaskRow, paused_at: float | None = None) -> Task:
    """A task as the API shows it; `paused_at` as for `task_usage`."""
    return Task.model_validate(
        {
            "id": row.id,
            "sandbox_id": row.sandbox_id,
            "agent": row.agent,
            "state": TaskState(row.state),
            "prompt": row.prompt,
            "budget": Budget.model_validate(row.budget),
            "checkpoints": row.checkpoints,
            "turn": row.turn,
            "usage": task_usage(row, paused_at),
            "breaches": [LimitBreach.model_validate(breach) for breach in row.breaches],
            "created_at": moment(row.created_at),
            "started_at": moment(row.started_at),
            "ended_at": moment(row.ended_at),
            "result": TaskResult.model_validate(row.result) if row.result is not None else None,
            "outputs": [OutputFile(path=entry[0], size=entry[1]) for entry in row.output_files],
            "outputs_truncated": row.outputs_truncated,
            "last_offset": row.last_offset,
            "events_url": f"/v1/tasks/{row.id}/events",
            "stream_url": f"/v1/tasks/{row.id}/stream",
        }
    )


def snapshot_view(record: SnapshotRecord) -> Snapshot:
    """A snapshot as the API shows it."""
    same = (
        "id",
        "sandbox_id",
        "parent",
        "kind",
        "disk",
        "reason",
        "name",
        "turn",
        "template",
        "created_at",
        "created_by",
    )
    return Snapshot.model_validate(
        {name: getattr(record, name) for name in (*same, "stored_bytes", "stopped_ms")}
        | {"bytes": record.logical_bytes}
    )


def _resumed(row: SandboxRow) -> Resumed | None:
    if row.resumed is None:
        return None
    return Resumed(
        memory=row.resumed["memory"], ms=row.resumed["ms"], at=datetime.fromtimestamp(row.resumed["at"], UTC)
    )


def event_view(row: EventRow) -> Event:
    """An event as the API shows it."""
    return Event(offset=row.offset, time=moment(row.time), type=EventType(row.type), data=row.data)


def moment(unix: float | None) -> datetime | None:
    """Unix seconds as a time with its zone."""
    return datetime.fromtimestamp(unix, UTC) if unix is not None else None


def _elapsed(start: float | None, end: float | None) -> float:
    return 0.0 if start is None else max(0.0, (end if end is not None else time.time()) - start)


def shorten(text: str, most: int) -> str:
    """At most `most` bytes of UTF-8, with an ellipsis where something was left out."""
    data = text.encode(errors="replace")
    return text if len(data) <= most else data[: most - 3].decode(errors="ignore") + "…"
