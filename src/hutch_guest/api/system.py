"""`/hutch/ready`, `/hutch/prepare`, `/hutch/stats`."""

from __future__ import annotations

import os
import time

from hutch_guest.access import same_text
from hutch_guest.api import identity
from hutch_guest.errors import Unauthorized
from hutch_guest.guest import Guest
from hutch_guest.http.messages import Request, Response, empty_response, json_response


async def ready(guest: Guest, request: Request) -> Response:
    """The guest answers."""
    return empty_response()


async def prepare(guest: Guest, request: Request) -> Response:
    """Tell the guest who it is. The first call sets the token; every later one needs it."""
    raw = await request.json()
    given = identity.check(raw)
    if guest.prepared and guest.access_token is not None:
        shown = request.headers.get("x-access-token")
        if shown is None or not same_text(shown, guest.access_token):
            raise Unauthorized("already prepared: the access token is needed")
    given.env = given.env or {}
    given.limits = given.limits or {}
    given.hostname = given.hostname or ""
    given.sandbox_id = given.sandbox_id or ""
    identity.take(guest, given)
    if guest.system:
        identity.new_generation(guest)
    guest.prepared = True
    await guest.monitor.start()
    return empty_response()


async def stats(guest: Guest, request: Request) -> Response:
    """What is in use, as the sandbox itself sees it."""
    from hutch_guest.limits import usage

    return json_response(
        {
            "memory": usage.memory(guest.limits.get("memory_bytes")),
            "disk": usage.disk(guest.limits.get("disk_bytes")),
            "pids": sum(name.isdigit() for name in os.listdir("/proc")),
            "uptime": time.monotonic() - guest.started,
        }
    )
