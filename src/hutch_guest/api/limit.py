"""`POST /hutch/limit`: the node says that the sandbox is over a limit."""

from __future__ import annotations

from hutch_guest.errors import InvalidRequest
from hutch_guest.guest import Guest
from hutch_guest.http.messages import Request, Response, json_response
from hutch_guest.limits.memory import relieve


async def limit(guest: Guest, request: Request) -> Response:
    """Make room at once, and answer what was done."""
    raw = await request.json()
    if raw.get("limit") != "memory":
        raise InvalidRequest("only the memory limit can be relieved", field="limit")
    amount, used = raw.get("amount"), raw.get("used")
    if not isinstance(amount, int) or not isinstance(used, int):
        raise InvalidRequest("amount and used are numbers of bytes", field="amount")
    return json_response(relieve(guest, amount, used).to_json())
