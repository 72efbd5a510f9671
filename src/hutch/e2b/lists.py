"""Lists of the sandboxes that were made through E2B's API. (Others are Hutch's own: a program that ends all it can see
must not see those.)"""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import parse_qsl, unquote

from starlette.responses import JSONResponse, Response

from hutch.control.views import row_states, sandbox_view
from hutch.e2b.context import Call
from hutch.e2b.templates import ALIASES, find_source, names_of
from hutch.e2b.views import listed
from hutch.errors import InvalidRequest, UnknownTemplate
from hutch.model import SandboxState
from hutch.store.e2b import Wanted
from hutch.store.pages import make_cursor

_STATES = {"running": (SandboxState.RUNNING,), "paused": (SandboxState.PAUSED, SandboxState.HIBERNATED)}
_DEFAULT_PAGE, _MOST = 100, 1000
_ROUNDING = 1.1e-6
"""What a time may have lost on its way to the client and back: it was told to the microsecond."""
NEXT = "X-Next-Token"


async def list_v2(call: Call) -> Response:
    """`GET /v2/sandboxes`."""
    return await _list(call, ("running", "paused"))


async def list_v1(call: Call) -> Response:
    """`GET /sandboxes`: running ones, unless `state` says otherwise."""
    return await _list(call, ("running",))


async def _list(call: Call, states: tuple[str, ...]) -> Response:
    query = call.request.query_params
    limit = page_size(call)
    templates, sources = await _templates(call, query.get("template"))
    wanted = Wanted(
        states=_states(query.get("state"), states),
        labels=_metadata(query.get("metadata")),
        templates=templates,
        sources=sources,
        started_after=_moment(query.get("startedAfter")),
        ascending=query.get("order") == "asc",
    )
    found = await call.control.store.e2b.page(call.org, wanted, limit + 1, query.get("nextToken") or None)
    shown = [listed(sandbox_view(row, None), extras) for row, extras in found[:limit]]
    headers = {}
    if len(found) > limit:
        last = found[limit - 1][0]
        headers[NEXT] = make_cursor(last.created_at, last.id)
    return JSONResponse(shown, headers=headers)


def page_size(call: Call) -> int:
    """`limit`. Raises `InvalidRequest`."""
    text = call.request.query_params.get("limit") or str(_DEFAULT_PAGE)
    if not (text.isascii() and text.isdecimal() and len(text) < 7 and int(text) > 0):
        raise InvalidRequest("limit: a number from 1 on")
    return min(int(text), _MOST)


def _states(text: str | None, default: tuple[str, ...]) -> list[str]:
    names = [name.strip() for name in text.split(",")] if text else list(default)
    if unknown := [name for name in names if name not in _STATES]:
        raise InvalidRequest(f"state: {unknown[0][:32]!r} is none of running, paused")
    states, _ = row_states([state for name in names for state in _STATES[name]])
    return states


def _metadata(text: str | None) -> dict[str, str]:
    """Clients encode each name and value, then the pairs, and HTTP encodes it all once more: two layers are left."""
    if not text:
        return {}
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=64)
    except ValueError as error:
        raise InvalidRequest("metadata: at most 64 pairs") from error
    return {unquote(name): unquote(value) for name, value in pairs}


async def _templates(call: Call, name: str | None) -> tuple[list[str] | None, list[str]]:
    """Templates that sandboxes stand on, and what they were asked for by: a snapshot, which may be gone by now."""
    if not name:
        return None, []
    if (built := await call.control.builds.names(call.org, name)) is not None:
        return built, []
    try:
        source = await find_source(call.control, name, call.org)
    except UnknownTemplate:
        return [], [name]
    if source.template:
        return names_of(ALIASES.get(source.template, source.template)), []
    return [], list(dict.fromkeys((name, source.snapshot or name)))


def _moment(text: str | None) -> float | None:
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text.replace(" ", "+"))
    except ValueError as error:
        raise InvalidRequest("startedAfter: a time such as 2026-01-31T12:00:00Z") from error
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - _ROUNDING
