"""Metrics."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from starlette.responses import JSONResponse, Response

from hutch.e2b.context import Call
from hutch.e2b.views import moment
from hutch.errors import GuestUnavailable, InvalidRequest, SandboxNotFound, SandboxNotRunning
from hutch.model import GuestFigures
from hutch.model.e2b import e2b_sandbox_id, hutch_sandbox_id

_MOST = 100


async def metrics(call: Call) -> Response:
    """`GET /sandboxes/{id}/metrics`: what was noted of the last day, and a sample of now."""
    sandbox = await call.living()
    start, end = (_seconds(call, name) for name in ("start", "end"))
    found = [_view(figures, at) for at, figures in call.control.samples.of(sandbox.id)]
    if (end is None or end >= int(time.time())) and (sample := await _sample(call, sandbox.id)):
        found.append(sample)
    first, last = start or 0, end if end is not None else 1 << 60
    return JSONResponse([each for each in found if first <= each["timestampUnix"] <= last])


async def metrics_of_many(call: Call) -> Response:
    """`GET /sandboxes/metrics?sandbox_ids=a,b`."""
    ids = call.request.query_params.get("sandbox_ids", "").split(",")
    if len(ids) > _MOST:
        raise InvalidRequest(f"sandbox_ids: at most {_MOST}")
    found = {}
    for id in filter(None, map(hutch_sandbox_id, ids)):
        try:
            sample = await _sample(call, id)
        except SandboxNotFound:
            continue
        if sample:
            found[e2b_sandbox_id(id)] = sample
    return JSONResponse({"sandboxes": found})


async def _sample(call: Call, sandbox_id: str) -> dict[str, Any] | None:
    try:
        figures = await call.control.figures(sandbox_id, org=call.org)
    except (SandboxNotRunning, GuestUnavailable):
        return None  # it was paused, or has ended, just now
    return _view(figures, time.time()) if figures is not None else None


def _view(figures: GuestFigures, now: float) -> dict[str, Any]:
    return {
        "timestamp": moment(datetime.fromtimestamp(now, UTC)),
        "timestampUnix": int(now),
        "cpuCount": figures.cpu_count,
        "cpuUsedPct": figures.cpu_used_pct,
        "memUsed": figures.mem_used,
        "memTotal": figures.mem_total,
        "memCache": figures.mem_cache,
        "diskUsed": figures.disk_used,
        "diskTotal": figures.disk_total,
    }


def _seconds(call: Call, name: str) -> int | None:
    text = call.request.query_params.get(name)
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 16):
        raise InvalidRequest(f"{name}: Unix seconds")
    return int(text)
