"""Identity tokens of one sandbox that its header rules have: asked for when a request is about to need them, and kept
for a while. They need not be kept from the sandbox, which may have any of its own (docs/guide/identity.md)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from functools import partial

from hutch.egress.broker.refusal import Refused

FRESH_SECONDS = 60.0
"""A token that holds for less than that is asked for anew, before a request has it."""
_LEFT_SECONDS = 5.0
"""For the way to the host: with less no request is sent."""

Ask = Callable[[str], Awaitable[tuple[str, float]]]
"""Asks for a token for an audience: the token, and until when it holds (Unix time). Raises `Refused`."""


class Tokens:
    """By audience."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[bytes, float]] = {}
        self._asked: dict[str, asyncio.Task[None]] = {}

    def lacking(self, audiences: Collection[str]) -> list[str]:
        """Which of them are to be asked for before a request."""
        return [each for each in audiences if self._left(each) < FRESH_SECONDS]

    async def fetch(self, audiences: Collection[str], ask: Ask) -> None:
        """Each is asked for once, however many wait for it. Raises `Refused`."""
        for audience in audiences:
            if audience not in self._asked:
                task = self._asked[audience] = asyncio.create_task(self._fetch(audience, ask))
                task.add_done_callback(partial(self._done, audience))
        await asyncio.gather(*(asyncio.shield(self._asked[each]) for each in audiences))

    def now(self, audience: str) -> bytes:
        """One that still holds. Raises `Refused`."""
        if self._left(audience) < _LEFT_SECONDS:
            raise Refused(503, f"there is no identity token for {audience} just now")
        return self._kept[audience][0]

    async def _fetch(self, audience: str, ask: Ask) -> None:
        token, until = await ask(audience)
        self._kept[audience] = (token.encode(), until)

    def _done(self, audience: str, task: asyncio.Task[None]) -> None:
        del self._asked[audience]
        if not task.cancelled():
            task.exception()  # those who wait are told, and there may be none any more

    def _left(self, audience: str) -> float:
        return self._kept[audience][1] - time.time() if audience in self._kept else 0.0
