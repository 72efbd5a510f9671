"""Files of a sandbox, on behalf of the API. (Signatures first; the bodies follow.)"""

from __future__ import annotations

from collections.abc import AsyncIterator

from hutch.control.types import Download
from hutch.model import FileInfo
from hutch.store import DEFAULT_ORG


class Files:
    """Everything is streamed; no file is ever held whole. Paths: absolute, or relative to the user's home.
    Raises `SandboxNotFound`, `SandboxNotRunning`, `FileMissing`, `InvalidPath`, `DiskFull`, `GuestUnavailable`."""

    async def read(
        self,
        sandbox_id: str,
        path: str,
        *,
        user: str | None = None,
        start: int = 0,
        end: int | None = None,
        org: str = DEFAULT_ORG,
    ) -> Download:
        """Bytes `start` to `end` (exclusive; None for the rest). `start` beyond the end: `InvalidRequest`."""
        raise NotImplementedError

    async def write(
        self,
        sandbox_id: str,
        path: str,
        chunks: AsyncIterator[bytes],
        *,
        user: str | None = None,
        mode: int | None = None,
        org: str = DEFAULT_ORG,
    ) -> FileInfo:
        """Write the file whole or not at all; makes parent directories."""
        raise NotImplementedError

    async def list(
        self, sandbox_id: str, path: str, *, depth: int = 1, user: str | None = None, org: str = DEFAULT_ORG
    ) -> list[FileInfo]:
        raise NotImplementedError

    async def stat(self, sandbox_id: str, path: str, *, user: str | None = None, org: str = DEFAULT_ORG) -> FileInfo:
        raise NotImplementedError

    async def mkdir(self, sandbox_id: str, path: str, *, user: str | None = None, org: str = DEFAULT_ORG) -> FileInfo:
        """Makes parents too; no error when the directory exists."""
        raise NotImplementedError

    async def move(
        self, sandbox_id: str, source: str, destination: str, *, user: str | None = None, org: str = DEFAULT_ORG
    ) -> FileInfo:
        raise NotImplementedError

    async def remove(self, sandbox_id: str, path: str, *, user: str | None = None, org: str = DEFAULT_ORG) -> None:
        """Remove a file or a whole directory. `FileMissing` when it is not there."""

    async def read_tar(
        self, sandbox_id: str, path: str, *, user: str | None = None, org: str = DEFAULT_ORG
    ) -> Download:
        """A directory (or one file) as a tar stream, names relative to `path`."""
        raise NotImplementedError

    async def write_tar(
        self,
        sandbox_id: str,
        path: str,
        chunks: AsyncIterator[bytes],
        *,
        user: str | None = None,
        org: str = DEFAULT_ORG,
    ) -> None:
        """Unpack a tar stream below `path`."""
