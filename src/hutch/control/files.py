"""Files of a sandbox, on behalf of the API."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from hutch.control.guests import Guests
from hutch.control.types import Download, Stream
from hutch.errors import AlreadyExists, InvalidPath
from hutch.fleet.transport import Answer
from hutch.model import FileInfo
from hutch.store import DEFAULT_ORG

_MAX_PATH = 4096
_NO_LIMIT = 1 << 50


class Files:
    """Everything is streamed; no file is ever held whole. Paths: absolute, or relative to the user's home.
    Raises `SandboxNotFound`, `SandboxNotRunning`, `FileMissing`, `InvalidPath`, `DiskFull`, `GuestUnavailable`."""

    def __init__(self, guests: Guests) -> None:
        self._guests = guests

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
        async with self._guests.of(sandbox_id, org) as guest:
            found = await guest.files.read(_checked(path), user, start, end)
        return self._download(sandbox_id, found.answer, found.size, found.total, found.start)

    async def write(
        self,
        sandbox_id: str,
        path: str,
        chunks: AsyncIterator[bytes],
        *,
        user: str | None = None,
        mode: int | None = None,
        size: int | None = None,
        org: str = DEFAULT_ORG,
    ) -> FileInfo:
        """Write the file whole or not at all; makes parent directories. `size`, where it is known (exactly), lets the
        sandbox say at once that it has no room."""
        async with self._guests.of(sandbox_id, org) as guest:
            return await guest.files.write(_checked(path), chunks, user, mode, size)

    async def list(
        self, sandbox_id: str, path: str, *, depth: int = 1, user: str | None = None, org: str = DEFAULT_ORG
    ) -> Sequence[FileInfo]:
        """The entries of a directory, `depth` levels deep."""
        async with self._guests.of(sandbox_id, org) as guest:
            return await guest.files.entries(_checked(path), depth, user)

    async def stat(self, sandbox_id: str, path: str, *, user: str | None = None, org: str = DEFAULT_ORG) -> FileInfo:
        """What stands at the path."""
        async with self._guests.of(sandbox_id, org) as guest:
            return await guest.files.stat(_checked(path), user)

    async def mkdir(self, sandbox_id: str, path: str, *, user: str | None = None, org: str = DEFAULT_ORG) -> FileInfo:
        """Makes parents too; no error when the directory exists."""
        async with self._guests.of(sandbox_id, org) as guest:
            try:
                return await guest.files.mkdir(_checked(path), user)
            except AlreadyExists:
                return await guest.files.stat(path, user)

    async def move(
        self, sandbox_id: str, source: str, destination: str, *, user: str | None = None, org: str = DEFAULT_ORG
    ) -> FileInfo:
        """Rename; replaces a file that stands at the destination."""
        async with self._guests.of(sandbox_id, org) as guest:
            return await guest.files.move(_checked(source), _checked(destination), user)

    async def remove(self, sandbox_id: str, path: str, *, user: str | None = None, org: str = DEFAULT_ORG) -> None:
        """Remove a file or a whole directory. `FileMissing` when it is not there."""
        async with self._guests.of(sandbox_id, org) as guest:
            await guest.files.remove(_checked(path), user)

    async def read_tar(
        self, sandbox_id: str, path: str, *, user: str | None = None, org: str = DEFAULT_ORG
    ) -> Download:
        """All files below a directory as a tar stream, names relative to `path`."""
        async with self._guests.of(sandbox_id, org) as guest:
            info = await guest.files.stat(_checked(path), user)
            if info.type != "directory":
                raise InvalidPath(f"{path[:300]} is not a directory", field="path")
            answer = await guest.files.collect(info.path, ["**"], _NO_LIMIT, user)
        return self._download(sandbox_id, answer, None, None, 0)

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
        async with self._guests.of(sandbox_id, org) as guest:
            await guest.files.extract(_checked(path), chunks, user)

    def _download(self, sandbox_id: str, answer: Answer, size: int | None, total: int | None, start: int) -> Download:
        chunks = self._guests.passing(sandbox_id, answer.chunks())
        return Download(Stream(chunks, answer.aclose), size, total, start)


def _checked(path: str) -> str:
    if not path or "\0" in path or len(path.encode(errors="replace")) > _MAX_PATH:
        raise InvalidPath("a path has 1 to 4096 bytes and no NUL", field="path")
    return path
