"""The log of a sandbox, as far as Hutch has one: what became of it. Output belongs to whoever runs the command."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from starlette.responses import JSONResponse, Response

from hutch.e2b.context import Call
from hutch.e2b.views import asleep, moment
from hutch.errors import InvalidRequest
from hutch.model import Sandbox, SandboxState, Snapshot

_MOST = 1000
_LEVELS = ("debug", "info", "warn", "error")


@dataclass(frozen=True)
class Entry:
    """One line."""

    at: datetime
    message: str
    fields: dict[str, str]
    level: str = "info"

    @property
    def cursor(self) -> int:
        """Unix milliseconds, by which the next page is asked for."""
        return int(self.at.timestamp() * 1000)

    def view(self) -> dict[str, Any]:
        """In E2B's words."""
        return {
            "timestamp": moment(self.at),
            "message": self.message,
            "level": self.level,
            "fields": self.fields,
        }


async def logs_v1(call: Call) -> Response:
    """`GET /sandboxes/{id}/logs`."""
    start, limit = _number(call, "start", 0), _number(call, "limit", _MOST)
    found = [each for each in await _entries(call) if each.cursor >= start][: min(limit, _MOST)]
    lines = [{"timestamp": moment(each.at), "line": each.message} for each in found]
    return JSONResponse({"logs": lines, "logEntries": [each.view() for each in found]})


async def logs_v2(call: Call) -> Response:
    """`GET /v2/sandboxes/{id}/logs`."""
    query = call.request.query_params
    limit = min(_number(call, "limit", _MOST), _MOST)
    direction, level = query.get("direction", "forward"), query.get("level", "debug")
    if direction not in ("forward", "backward") or level not in _LEVELS:
        raise InvalidRequest("direction is forward or backward, level one of debug, info, warn, error")
    wanted = _LEVELS[_LEVELS.index(level) :]
    found = [each for each in await _entries(call) if each.level in wanted and query.get("search", "") in each.message]
    if direction == "backward":
        found = [each for each in reversed(found) if each.cursor <= _number(call, "cursor", 1 << 60)]
    else:
        found = [each for each in found if each.cursor >= _number(call, "cursor", 0)]
    return JSONResponse({"logs": [each.view() for each in found[:limit]]})


async def _entries(call: Call) -> list[Entry]:
    sandbox = await call.living()
    found = life_of(sandbox, list(await call.control.snapshots(sandbox.id, org=call.org)))
    return sorted(found, key=lambda each: each.at)


def life_of(sandbox: Sandbox, snapshots: list[Snapshot]) -> list[Entry]:
    """What is known of it, in no order: of pauses and resumes, the last."""
    found = [Entry(sandbox.created_at, "sandbox created", {"template": sandbox.template})]
    if sandbox.started_at is not None:
        found.append(Entry(sandbox.started_at, "sandbox started", {"start": sandbox.start or ""}))
    if sandbox.start_reason and sandbox.started_at is not None:
        message = f"booted and not thawed: {sandbox.start_reason}"
        found.append(Entry(sandbox.started_at, message, {}, "debug"))
    for snapshot in snapshots:
        fields = {"snapshot": snapshot.id, "reason": snapshot.reason.value} | (
            {"name": snapshot.name} if snapshot.name else {}
        )
        found.append(Entry(snapshot.created_at, "snapshot taken", fields))
    if sandbox.paused_at is not None and asleep(sandbox):
        kept = "files" if sandbox.state is SandboxState.HIBERNATED else "memory and files"
        found.append(Entry(sandbox.paused_at, "sandbox paused", {"kept": kept}))
    if sandbox.resumed is not None:
        memory = "kept" if sandbox.resumed.memory else "lost"
        level = "info" if sandbox.resumed.memory else "warn"
        found.append(Entry(sandbox.resumed.at, "sandbox resumed", {"memory": memory}, level))
    return found


def _number(call: Call, name: str, default: int) -> int:
    text = call.request.query_params.get(name)
    if not text:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise InvalidRequest(f"{name}: a whole number")
    return int(text)
