"""envd's small HTTP calls: `/health`, `/metrics`, `/envs`, `/init`."""

from __future__ import annotations

import os
import time

from hutch_guest.errors import InvalidRequest
from hutch_guest.guest import Guest
from hutch_guest.http.messages import Request, Response, empty_response, json_response
from hutch_guest.limits import usage
from hutch_guest.processes import environment

_MIB = 1 << 20


async def health(guest: Guest, request: Request) -> Response:
    """The guest answers."""
    return empty_response()


async def metrics(guest: Guest, request: Request) -> Response:
    """What the sandbox uses."""
    memory = usage.memory(guest.limits.get("memory_bytes"))
    disk = usage.disk(guest.limits.get("disk_bytes"))
    return json_response(
        {
            "ts": int(time.time()),
            "cpu_count": os.cpu_count() or 1,
            "cpu_used_pct": guest.cpu.percent(),
            "mem_total": memory["total"],
            "mem_used": memory["used"],
            "mem_cache": memory["cache"],
            "mem_total_mib": memory["total"] // _MIB,
            "mem_used_mib": memory["used"] // _MIB,
            "disk_used": disk["used"],
            "disk_total": disk["total"],
        }
    )


async def envs(guest: Guest, request: Request) -> Response:
    """The environment that everything in the sandbox gets."""
    merged: dict[str, str] = {}
    for layer in guest.layers():
        merged.update(layer)
    return json_response(merged)


async def init(guest: Guest, request: Request) -> Response:
    """Change the sandbox's environment and defaults (the gateway lets nobody through to this one)."""
    raw = await request.json()
    if raw.get("envVars") is not None:
        guest.env = environment.check(raw["envVars"])
    for name in ("accessToken", "defaultUser", "defaultWorkdir"):
        value = raw.get(name)
        if value is not None and not isinstance(value, str):
            raise InvalidRequest(f"{name} is not a text")
    guest.access_token = raw.get("accessToken") or guest.access_token
    guest.default_user = raw.get("defaultUser") or guest.default_user
    guest.default_workdir = raw.get("defaultWorkdir") or guest.default_workdir
    return empty_response()
