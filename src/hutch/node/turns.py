"""Taking turns at what is dear to the node, so that no tenant keeps all others from it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from weakref import WeakValueDictionary

from hutch.errors import LimitReached


class Turns:
    """At most `at_once`, and `of_one` of an organisation. Who has a turn must not wait for a second one."""

    def __init__(self, at_once: int, of_one: int) -> None:
        self._all = asyncio.Semaphore(at_once)
        self._of_one = of_one
        self._own: WeakValueDictionary[str | None, asyncio.Semaphore] = WeakValueDictionary()

    @asynccontextmanager
    async def turn(self, org: str | None, within: float) -> AsyncIterator[None]:
        """Raises `LimitReached` when there is none within so many seconds."""
        own = self._own.setdefault(org, asyncio.Semaphore(self._of_one))
        async with AsyncExitStack() as held:
            try:
                async with asyncio.timeout(within):
                    await held.enter_async_context(own)
                    await held.enter_async_context(self._all)
            except TimeoutError as error:
                raise LimitReached(
                    f"this node is busy with others of its kind, for {within:.0f} s already",
                    hint="Try again when they have ended.",
                    limit="diffs_at_once",
                ) from error
            yield
