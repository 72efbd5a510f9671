"""Files of a sandbox. Everything is streamed: gigabytes pass without being held in memory."""

from __future__ import annotations

import builtins
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from hutch.errors import InvalidPath
from hutch.model import FileInfo
from hutch.sdk._async.transport import LOST, AsyncTransport, at
from hutch.sdk._shim import aio
from hutch.sdk.sources import save
from hutch.sdk.tar import pack
from hutch.sdk.untar import Seen, unpack
from hutch.sdk.wire import parse


class AsyncFiles:
    """Paths are absolute, or relative to the user's home. `user` acts as that user of the sandbox."""

    def __init__(self, transport: AsyncTransport, sandbox_id: str) -> None:
        self._transport = transport
        self._base = at("sandboxes", sandbox_id, "files")

    async def read(self, path: str, *, user: str | None = None) -> bytes:
        """A whole file. For large ones, see `stream` and `download`."""
        return (await self._transport.request("GET", self._base, params={"path": path, "user": user})).content

    async def read_text(self, path: str, *, user: str | None = None) -> str:
        """A whole file as UTF-8 text."""
        return (await self.read(path, user=user)).decode()

    async def stream(self, path: str, *, start: int = 0, user: str | None = None) -> AsyncIterator[bytes]:
        """A file in chunks, from byte `start`."""
        headers = {"Range": f"bytes={start}-"} if start else None
        params = {"path": path, "user": user}
        async with self._transport.stream("GET", self._base, params=params, headers=headers) as response:
            try:
                async for chunk in response.aiter_bytes():
                    yield chunk
            except LOST as error:
                raise self._transport.lost(error) from error

    async def download(self, path: str, to: str | os.PathLike[str] | IO[bytes], *, user: str | None = None) -> int:
        """Write a file to a local path (whole or not at all) or an open file; its size."""
        return await aio.consume(lambda chunks: save(chunks, to), self.stream(path, user=user))

    async def write(
        self, path: str, data: aio.AnySource, *, mode: int | None = None, user: str | None = None
    ) -> FileInfo:
        """Write a file, whole or not at all. `data`: bytes, text, a local `Path`, an open file, or what gives bytes."""
        params = {"path": path, "user": user, "mode": None if mode is None else f"{mode:o}"}
        answer = await self._transport.json(
            "PUT",
            self._base,
            params=params,
            content=lambda: aio.body_of(data),
            repeat=isinstance(data, bytes | str | os.PathLike),
        )
        return parse(FileInfo, answer)

    async def list(self, path: str = ".", *, depth: int = 1, user: str | None = None) -> list[FileInfo]:
        """What is in a directory, `depth` levels down."""
        answer = await self._transport.json(
            "GET", f"{self._base}/list", params={"path": path, "depth": depth, "user": user}
        )
        return [parse(FileInfo, entry) for entry in answer["entries"]]

    async def stat(self, path: str, *, user: str | None = None) -> FileInfo:
        """One file or directory. `FileMissing` when there is none."""
        return parse(
            FileInfo, await self._transport.json("GET", f"{self._base}/stat", params={"path": path, "user": user})
        )

    async def mkdir(self, path: str, *, user: str | None = None) -> FileInfo:
        """Make a directory, and its parents. No error when it is there."""
        body = {"path": path} | ({"user": user} if user else {})
        return parse(FileInfo, await self._transport.json("POST", f"{self._base}/mkdir", body=body, repeat=True))

    async def move(self, source: str, destination: str, *, user: str | None = None) -> FileInfo:
        """Rename."""
        body = {"source": source, "destination": destination} | ({"user": user} if user else {})
        return parse(FileInfo, await self._transport.json("POST", f"{self._base}/move", body=body))

    async def remove(self, path: str, *, user: str | None = None) -> None:
        """Remove a file, or a directory with all that is in it."""
        await self._transport.request("DELETE", self._base, params={"path": path, "user": user}, repeat=False)

    async def upload_dir(
        self,
        local: str | os.PathLike[str],
        path: str,
        *,
        exclude: Sequence[str] = (),
        user: str | None = None,
        watch: Callable[[Iterator[bytes]], Iterator[bytes]] | None = None,
    ) -> None:
        """Put the contents of a local directory below `path`. `watch` sees the bytes go by (for progress bars)."""
        source = Path(local)
        if not await aio.in_thread(source.is_dir):
            raise InvalidPath(f"{str(source)!r} is no directory", path=str(source))
        await self.put_tar(path, lambda: pack(source, exclude=exclude), user=user, watch=watch)

    async def put_tar(
        self,
        path: str,
        tar: Callable[[], Iterator[bytes]],
        *,
        user: str | None = None,
        watch: Callable[[Iterator[bytes]], Iterator[bytes]] | None = None,
    ) -> None:
        """Unpack a tar stream below `path`."""

        def chunks() -> Iterator[bytes]:
            return watch(tar()) if watch else tar()

        await self._transport.request(
            "PUT", f"{self._base}/tar", params={"path": path, "user": user}, content=lambda: aio.iterate(chunks())
        )

    async def download_dir(
        self, path: str, local: str | os.PathLike[str], *, user: str | None = None, seen: Seen | None = None
    ) -> builtins.list[str]:
        """Copy a directory's contents below `local`; the files written. Nothing is written outside of `local`."""
        return await aio.consume(lambda chunks: unpack(chunks, Path(local), seen), self._tar(path, user))

    async def _tar(self, path: str, user: str | None) -> AsyncIterator[bytes]:
        params = {"path": path, "user": user}
        async with self._transport.stream("GET", f"{self._base}/tar", params=params) as response:
            try:
                async for chunk in response.aiter_bytes():
                    yield chunk
            except LOST as error:
                raise self._transport.lost(error) from error
