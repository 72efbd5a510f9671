"""Sandboxes and snapshots in E2B's words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from hutch.control.ports import Ports
from hutch.e2b.network import opens, rules_view
from hutch.e2b.options import Options
from hutch.model import Sandbox, SandboxState, Snapshot, TemplateInfo
from hutch.model.e2b import e2b_sandbox_id
from hutch.model.headers import HeaderRule
from hutch.store.e2b import E2bRow
from hutch.store.template_logs import LEVELS, LogLine
from hutch.store.templates import BuildRow, TemplateRow

ENVD_VERSION = "0.6.13"
"""The version of envd whose wire the guest speaks: clients choose by it what they may ask for."""
_CLIENT = "hutch"
_MADE = re.compile(r"(?<=.)-[0-9a-f]{12}$")
"""What tells one build of a template from another."""
_NATIVE = Options(public=False, auto_resume=True)
"""Of a sandbox that was not made through E2B's API."""


def options_of_row(row: E2bRow | None) -> Options:
    """What is stored, or what holds where nothing is."""
    return Options.of(row) if row is not None else _NATIVE


def handle(sandbox: Sandbox, row: E2bRow | None, ports: Ports, domain: str | None) -> dict[str, Any]:
    """What a client needs to use a sandbox: the answer to create, connect, resume, fork."""
    options = options_of_row(row)
    found: dict[str, Any] = {
        "templateID": options.template_id or sandbox.template,
        "sandboxID": e2b_sandbox_id(sandbox.id),
        "clientID": _CLIENT,
        "envdVersion": ENVD_VERSION,
        "domain": domain,
        "trafficAccessToken": None if options.public else ports.traffic_token(sandbox.id),
    }
    if options.secure:
        found["envdAccessToken"] = ports.access_token(sandbox.id)
    return found


def listed(sandbox: Sandbox, row: E2bRow | None) -> dict[str, Any]:
    """An entry of a list."""
    options = options_of_row(row)
    resources = sandbox.resources
    return {
        "templateID": options.template_id or sandbox.template,
        "alias": _MADE.sub("", sandbox.template),
        "sandboxID": e2b_sandbox_id(sandbox.id),
        "clientID": _CLIENT,
        "startedAt": moment(sandbox.created_at),
        "endAt": moment(_end(sandbox, row)),
        "envdVersion": ENVD_VERSION,
        "cpuCount": max(1, round(resources.cpus)),
        "memoryMB": resources.memory_mib,
        "diskSizeMB": resources.disk_mib,
        "state": state_of(sandbox),
        "metadata": sandbox.labels,
        "volumeMounts": [mount.model_dump() for mount in sandbox.volumes],
    }


def detail(
    sandbox: Sandbox, row: E2bRow | None, rules: Sequence[HeaderRule], ports: Ports, domain: str | None
) -> dict[str, Any]:
    """All about one."""
    options = options_of_row(row)
    found = listed(sandbox, row) | {
        "domain": domain,
        "allowInternetAccess": opens(sandbox.network),
        "lifecycle": {"autoResume": options.auto_resume, "onTimeout": "pause" if options.auto_pause else "kill"},
        "network": {"allowPublicTraffic": options.public} | (options.network or {}),
    }
    if rules:
        found["network"]["rules"] = rules_view(rules)
    if options.secure:
        found["envdAccessToken"] = ports.access_token(sandbox.id)
    if found["state"] == "paused":
        found["pauseMode"] = "filesystem" if sandbox.state is SandboxState.HIBERNATED else "full"
    return found


def state_of(sandbox: Sandbox) -> str:
    """E2B knows two."""
    return "paused" if asleep(sandbox) else "running"


def asleep(sandbox: Sandbox) -> bool:
    """Whether it is paused, with or without its memory."""
    return sandbox.state in (SandboxState.PAUSED, SandboxState.HIBERNATED)


def snapshot_view(snapshot: Snapshot) -> dict[str, Any]:
    """A snapshot."""
    return {"snapshotID": snapshot.id, "names": [snapshot.name] if snapshot.name else []}


def log_line(line: LogLine) -> dict[str, Any]:
    """A line of a build's log."""
    shown = {"timestamp": moment(_at(line.time)), "level": LEVELS[line.level], "message": line.message}
    return shown | ({"step": line.step} if line.step else {})


def template_view(template: TemplateRow, build: BuildRow, builds: int, info: TemplateInfo | None) -> dict[str, Any]:
    """A template, by the build that stands for it; `info`: what the node has of that."""
    resources = info.resources.model_dump() if info is not None else build.wanted
    return {
        "templateID": template.id,
        "buildID": build.id,
        "cpuCount": max(1, round(resources.get("cpus") or 1)),
        "memoryMB": resources.get("memory_mib") or 0,
        "diskSizeMB": resources.get("disk_mib") or 0,
        "public": False,
        "aliases": [template.name],
        "names": [template.name],
        "createdAt": moment(_at(template.created_at)),
        "updatedAt": moment(_at(build.ended_at or build.created_at)),
        "createdBy": None,
        "lastSpawnedAt": None,
        "spawnCount": 0,
        "buildCount": builds,
        "envdVersion": ENVD_VERSION,
        "buildStatus": build.state,
    }


def _at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def moment(when: datetime) -> str:
    """RFC 3339, in UTC, to the microsecond."""
    return when.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _end(sandbox: Sandbox, row: E2bRow | None) -> datetime:
    if row is None:
        return sandbox.deadline
    if row.end_at is not None:
        return datetime.fromtimestamp(row.end_at, UTC)
    if sandbox.paused_at is not None:
        return sandbox.paused_at
    return min(sandbox.deadline, datetime.now(UTC) + timedelta(seconds=row.timeout))  # woken, and it is set in a moment
