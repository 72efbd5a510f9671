"""Blobs as files below a directory."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from hutch.blobs.base import BlobStore
from hutch.errors import DiskFull, NotFound, PayloadTooLarge

_CHUNK = 1 << 20
_KEY = re.compile(r"(?!.*(?:^|/)\.{1,2}(?:/|$))[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)*")
_TEMPORARY = ".tmp"


class FileBlobs(BlobStore):
    """A blob is written under a temporary name, synced, and renamed. File work is done in threads."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._temporary = root / _TEMPORARY

    async def put(self, key: str, chunks: AsyncIterator[bytes], max_bytes: int | None = None) -> int:
        target = self._path(key)
        temporary = self._temporary / secrets.token_hex(16)
        try:
            file = await asyncio.to_thread(_open_new, temporary)
            try:
                size = await self._fill(file, chunks, max_bytes)
                await asyncio.to_thread(_finish, file, temporary, target)
            finally:
                file.close()
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFull("the server's disk is full") from error
            raise
        finally:
            with suppress(FileNotFoundError):
                temporary.unlink()
        return size

    async def _fill(self, file: BinaryIO, chunks: AsyncIterator[bytes], max_bytes: int | None) -> int:
        """Copy in pieces of about 1 MiB: a trip to a thread for each small chunk would cost more than the write."""
        size = 0
        pending = bytearray()
        async for chunk in chunks:
            size += len(chunk)
            if max_bytes is not None and size > max_bytes:
                raise PayloadTooLarge(f"more than {max_bytes} bytes", limit=max_bytes)
            pending += chunk
            if len(pending) >= _CHUNK:
                await asyncio.to_thread(file.write, bytes(pending))
                pending.clear()
        await asyncio.to_thread(file.write, bytes(pending))
        return size

    async def size(self, key: str) -> int | None:
        try:
            return (await asyncio.to_thread(self._path(key).stat)).st_size
        except FileNotFoundError:
            return None

    async def get(self, key: str, start: int = 0, length: int | None = None) -> AsyncGenerator[bytes, None]:
        try:
            file = await asyncio.to_thread(self._path(key).open, "rb")
        except FileNotFoundError as error:
            raise NotFound(f"no blob {key}") from error
        try:
            await asyncio.to_thread(file.seek, start)
            left = float("inf") if length is None else length
            while chunk := await asyncio.to_thread(file.read, int(min(_CHUNK, left))):
                yield chunk
                left -= len(chunk)
        finally:
            file.close()

    async def rename(self, key: str, to: str) -> None:
        try:
            await asyncio.to_thread(_rename, self._path(key), self._path(to))
        except FileNotFoundError as error:
            raise NotFound(f"no blob {key}") from error

    async def delete(self, key: str) -> None:
        await asyncio.to_thread(self._path(key).unlink, missing_ok=True)

    async def keys(self, prefix: str) -> AsyncIterator[str]:
        for key in await asyncio.to_thread(self._find, prefix):
            yield key

    async def sweep(self, older_than: float = 3600.0) -> int:
        """Remove temporary files that a killed process has left, once they have not been written to for
        `older_than` seconds; how many."""
        return await asyncio.to_thread(self._sweep, time.time() - older_than)

    def _path(self, key: str) -> Path:
        if len(key) > 1024 or not _KEY.fullmatch(key) or key.split("/", 1)[0] == _TEMPORARY:
            raise ValueError(f"not a blob key: {key!r}")
        return self._root / key

    def _find(self, prefix: str) -> list[str]:
        found = []
        for directory, names, files in os.walk(self._root):
            base = Path(directory).relative_to(self._root)
            if base == Path():
                names[:] = [name for name in names if name != _TEMPORARY]
            found += [key for key in ((base / name).as_posix() for name in files) if key.startswith(prefix)]
        return sorted(found)

    def _sweep(self, before: float) -> int:
        swept = 0
        for path in self._temporary.glob("*"):
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < before:
                    path.unlink()
                    swept += 1
        return swept


def _open_new(path: Path) -> BinaryIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb", buffering=0)


def _finish(file: BinaryIO, temporary: Path, target: Path) -> None:
    os.fsync(file.fileno())
    _rename(temporary, target)


def _rename(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    os.rename(path, target)
    directory = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
