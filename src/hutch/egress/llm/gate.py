"""Holds back the calls of one sandbox to its model provider, so that it can be frozen between two of them: one that is
cut in the middle is paid for twice. One that is held has cost nothing, and its client tries again."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Any

from hutch.egress.llm.refused import Refused

MAX_WAITING = 32
_READ = 0.25
"""Seconds in which the guest is trusted to have read the last answer after its last byte was sent."""


class Gate:
    """Of one account. Calls pass, unless it is shut."""

    def __init__(self) -> None:
        self._under_way: set[asyncio.Task[Any]] = set()
        self._last_end = 0.0
        self._shut_until = 0.0
        self._latched = False
        self._opened = asyncio.Event()
        self._waiting = 0

    @property
    def under_way(self) -> frozenset[asyncio.Task[Any]]:
        """The calls that have passed and go on."""
        return frozenset(self._under_way)

    @property
    def shut(self) -> bool:
        """Whether calls are held."""
        return self._latched or time.monotonic() < self._shut_until

    @property
    def waiting(self) -> int:
        """Calls that are held."""
        return self._waiting if self.shut else 0

    def entered(self, call: asyncio.Task[Any]) -> None:
        """A call has passed."""
        self._under_way.add(call)

    def left(self, call: asyncio.Task[Any]) -> None:
        """It has ended."""
        self._under_way.discard(call)
        self._last_end = time.monotonic()

    async def passage(self) -> None:
        """Returns when a call may pass. Raises `Refused` when too many wait already."""
        if self._waiting >= MAX_WAITING:
            raise Refused(429, f"At most {MAX_WAITING} model calls of one sandbox at once.")
        self._waiting += 1
        try:
            while self.shut:
                left = self._shut_until - time.monotonic()
                with suppress(TimeoutError):
                    async with asyncio.timeout(None if self._latched else left):
                        await self._opened.wait()
        finally:
            self._waiting -= 1

    async def hold(self, within: float, seconds: float) -> bool:
        """Shut it for at most `seconds`, as soon as no call is under way; False when there was no such moment `within`
        so many seconds."""
        try:
            async with asyncio.timeout(within):
                while self._under_way:
                    await asyncio.wait(self._under_way)
        except TimeoutError:
            return False
        self._opened.clear()
        self._shut_until = time.monotonic() + seconds
        await asyncio.sleep(self._last_end + _READ - time.monotonic())
        return True

    def latch(self) -> bool:
        """Keep it shut until `unlatch`, however long that takes and whoever opens it; False when it is not shut."""
        self._latched = self.shut
        return self._latched

    def unlatch(self) -> None:
        """Open it, whether it was latched or not."""
        self._latched = False
        self.open()

    def open(self) -> None:
        """Let those go that are held, unless it is latched."""
        self._shut_until = 0.0
        if not self._latched:
            self._opened.set()
