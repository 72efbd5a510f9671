"""Small values that pass between the API and `Control`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

from hutch.store.engine import Transaction

T = TypeVar("T")

Also = Callable[[Transaction, str], Awaitable[None]]
"""What else is written in the transaction that makes the sandbox of this id."""


MAX_PAGE = 1000
"""The most that one page of a list holds, whatever was asked for."""


@dataclass(frozen=True)
class Page(Generic[T]):
    """One page of a list; `next_cursor` is None on the last."""

    items: list[T]
    next_cursor: str | None = None


@dataclass(frozen=True)
class Idempotency:
    """An `Idempotency-Key` header. Keys of different API keys never meet."""

    owner: str
    """Id of the API key that made the call."""
    key: str


class Stream(AsyncIterator[T]):
    """Something that is open and is read: exhaust it or `aclose` it. Unlike a generator that was never begun, it
    lets go of what it holds even when nothing of it was read."""

    def __init__(self, items: AsyncGenerator[T, None], close: Callable[[], Awaitable[None]] | None = None) -> None:
        self._items = items
        self._close = close

    async def __anext__(self) -> T:
        try:
            return await anext(self._items)
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        close, self._close = self._close, None
        try:
            await self._items.aclose()
        finally:
            if close is not None:
                await close()


@dataclass(frozen=True)
class Download:
    """A stream of bytes on its way out. `chunks` must be exhausted or closed (`aclose`)."""

    chunks: Stream[bytes]
    size: int | None
    """Bytes that `chunks` will give; None when that is not known."""
    total: int | None = None
    """Size of the whole file, where `chunks` is a range of it."""
    start: int = 0
    """Offset of the first byte of `chunks` in the whole file."""


@dataclass(frozen=True)
class Upload:
    """Files sent ahead of a task."""

    id: str
    size: int
    expires_at: datetime
