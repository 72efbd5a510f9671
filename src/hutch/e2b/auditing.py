"""Calls of E2B's API in the audit log, as Hutch's own are (`hutch.api.auditing`)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.responses import Response

from hutch.control.audit import call as record_of
from hutch.e2b.context import Call
from hutch.errors import HutchError
from hutch.store.audit import acting

_READS = ("GET", "HEAD")


async def recorded(call: Call, handler: Callable[[Call], Awaitable[Response]]) -> Response:
    """The handler's answer. A call that may change something is recorded before, each one with its outcome."""
    audit, org, method, path = call.control.store.audit, call.org, call.request.method, call.request.url.path
    with acting(call.caller.key_id, str(call.request.scope.get("state", {}).get("request_id", ""))):
        if method not in _READS:
            query, body = call.request.url.query, await call.request.body()
            await audit.record(record_of(org, "begun", method, path, query, body))
        try:
            answer = await handler(call)
        except HutchError as error:
            await audit.record(record_of(org, str(error.http_status), method, path))
            raise
        except Exception:
            await audit.record(record_of(org, "failed", method, path))
            raise
        if method not in _READS or call.server.settings.audit_reads:
            await audit.record(record_of(org, str(answer.status_code), method, path))
        return answer
