"""Small values that pass between the API and `Control`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Page(Generic[T]):
    """One page of a list, newest first; `next_cursor` is None on the last."""

    items: list[T]
    next_cursor: str | None = None


@dataclass(frozen=True)
class Idempotency:
    """An `Idempotency-Key` header. Keys of different API keys never meet."""

    owner: str
    """Id of the API key that made the call."""
    key: str


@dataclass(frozen=True)
class Download:
    """A stream of bytes on its way out. `chunks` must be exhausted or closed (`aclose`)."""

    chunks: AsyncIterator[bytes]
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
