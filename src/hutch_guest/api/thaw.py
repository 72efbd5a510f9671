"""`POST /hutch/thaw`: the sandbox has been frozen and brought back, perhaps as another one."""

from __future__ import annotations

import asyncio
import select
import selectors
import sys
from base64 import b64decode
from typing import Any

from hutch_guest import entropy
from hutch_guest.api import identity
from hutch_guest.errors import InvalidRequest
from hutch_guest.guest import Guest
from hutch_guest.http.messages import Request, Response, json_response

_MOST_ENTROPY = 4096


async def thaw(guest: Guest, request: Request) -> Response:
    """Take on the new identity; the answer says what came of it. Twice does no harm. What is missing stays as it is.

    The caller has shown the token that was in force at the freeze. The new one is in force before this answers.
    """
    renew_selector(asyncio.get_running_loop())
    raw = await request.json()
    given, fresh = identity.check(raw), _entropy(raw.get("entropy"))
    mixed = entropy.mix(fresh) if guest.system else []
    if "random" in sys.modules:
        sys.modules["random"].seed()  # from the kernel's pool
    identity.take(guest, given)
    if guest.system:
        identity.new_generation(guest)
    guest.go_on()
    await guest.monitor.start()
    return json_response({"boot_id": guest.boot_id, "entropy": mixed})


def renew_selector(loop: asyncio.AbstractEventLoop) -> None:
    """Have the event loop watch with an epoll set of its own making, and not with the one that was frozen: gVisor may
    report a descriptor in that which was closed just before the freeze, for ever, and the loop would never rest."""
    selector = getattr(loop, "_selector", None)
    if not isinstance(selector, selectors.EpollSelector):
        return
    fresh = select.epoll()
    for key in selector.get_map().values():
        events = select.EPOLLIN * bool(key.events & selectors.EVENT_READ)
        fresh.register(key.fd, events | select.EPOLLOUT * bool(key.events & selectors.EVENT_WRITE))
    old, selector._selector = selector._selector, fresh  # type: ignore[attr-defined]
    old.close()


def _entropy(value: Any) -> bytes:
    if value is None:
        return b""
    try:
        return b64decode(value, validate=True)[:_MOST_ENTROPY]
    except (TypeError, ValueError):
        raise InvalidRequest("entropy is not base64", field="entropy") from None
