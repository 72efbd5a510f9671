"""`POST /hutch/token`: another access token in place of the one that is in force, which is in a snapshot now."""

from __future__ import annotations

import time

from hutch_guest.api.identity import check, new_snapshot
from hutch_guest.errors import InvalidRequest
from hutch_guest.guest import Guest
from hutch_guest.http.messages import Request, Response, empty_response

_LONGEST = 60.0


async def renew(guest: Guest, request: Request) -> Response:
    """The old one stays good for `former_seconds`, for calls that are on their way. Twice does no harm."""
    raw = await request.json()
    token, seconds = check(raw).token, raw.get("former_seconds", 0)
    if token is None:
        raise InvalidRequest("access_token is missing", field="access_token")
    if not isinstance(seconds, int | float) or not 0 <= seconds <= _LONGEST:
        raise InvalidRequest(f"former_seconds is not a number from 0 to {_LONGEST:g}", field="former_seconds")
    if token != guest.access_token:
        guest.access_token, guest.former_token = token, guest.access_token
        guest.former_until = time.monotonic() + seconds
        if guest.system:
            new_snapshot()
    return empty_response()
