"""Large opaque objects: task artifacts, uploads; later snapshots and workspaces."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator


class BlobStore(ABC):
    """Keys are `/`-separated names of [A-Za-z0-9._-]. A blob is whole or absent, never half: a write that is cut
    leaves nothing."""

    @abstractmethod
    async def put(self, key: str, chunks: AsyncIterator[bytes], max_bytes: int | None = None) -> int:
        """Store the stream under `key` (replacing), durably; its size. Raises `PayloadTooLarge`, `DiskFull`."""

    @abstractmethod
    async def size(self, key: str) -> int | None:
        """The blob's size in bytes, None when it is absent."""

    @abstractmethod
    def get(self, key: str, start: int = 0, length: int | None = None) -> AsyncGenerator[bytes, None]:
        """The blob's bytes from `start`, at most `length` of them. Raises `NotFound`."""

    @abstractmethod
    async def rename(self, key: str, to: str) -> None:
        """Give it another key, in place of what had that. Raises `NotFound`."""

    @abstractmethod
    async def delete(self, key: str) -> None:
        """Remove it; no error when it is absent."""

    @abstractmethod
    def keys(self, prefix: str) -> AsyncIterator[str]:
        """All keys below `prefix`."""
