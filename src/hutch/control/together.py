"""The same for many, a few at a time; what goes wrong with one does not keep it from the others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import structlog

log = structlog.get_logger("hutch.control")

T = TypeVar("T")
_AT_ONCE = 16


async def each(items: Iterable[T], work: Callable[[T], Awaitable[None]]) -> None:
    """Do the work for every item; failures are logged, and tried again by whoever calls us next."""
    turns = asyncio.Semaphore(_AT_ONCE)

    async def one(item: T) -> None:
        async with turns:
            try:
                await work(item)
            except Exception as error:
                log.warning("not done; it is tried again", work=work.__name__, error=str(error))

    await asyncio.gather(*(one(item) for item in items))
