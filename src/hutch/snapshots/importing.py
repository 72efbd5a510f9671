"""Reading a snapshot from a stream that anyone may have made; the format is in `archive`."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from hutch.errors import InvalidArchive, PayloadTooLarge
from hutch.model import SnapshotReason, SnapshotRecord, new_id
from hutch.snapshots.archive import BLOCK, MANIFEST, MOST_JSON, MOST_PART, SUMS, ArchivedFile, Manifest
from hutch.snapshots.disk import Disk, telling_full
from hutch.snapshots.zstd import Damaged, decompress

MOST_PADDING = 1 << 20

Run = Callable[[Callable[[], None]], Awaitable[None]]
"""Runs blocking work in a thread."""


@dataclass(frozen=True)
class Origin:
    """To whom an imported snapshot belongs: never what the archive says."""

    org: str | None
    sandbox_id: str
    created_by: str | None
    created_at: datetime

    def adopt(self, exported: SnapshotRecord) -> SnapshotRecord:
        """The record of the new snapshot."""
        return SnapshotRecord(
            id=new_id("snp"),
            org=self.org,
            sandbox_id=self.sandbox_id,
            created_by=self.created_by,
            created_at=self.created_at,
            reason=SnapshotReason.MANUAL,
            kind=exported.kind,
            disk=exported.disk,
            name=exported.name,
            turn=exported.turn,
            runtime=exported.runtime,
            template=exported.template,
            resources=exported.resources,
        )


async def unpack(
    stream: AsyncIterator[bytes],
    directory: Path,
    disk: Disk,
    max_bytes: int,
    run: Run,
    check_room: Callable[[], None] = lambda: None,
) -> SnapshotRecord:
    """Write the files into the empty `directory`; the record that came with them. Memory: a few MiB. `check_room` is
    called in a thread before each few MiB. Raises `InvalidArchive`, `PayloadTooLarge`, `DiskFull`, and what
    `check_room` raises; then some files may be there."""
    source = _Source(stream)
    manifest = _manifest(await source.member(MANIFEST, MOST_JSON))
    total = sum(file.size for file in manifest.files)
    if total > max_bytes:
        raise PayloadTooLarge(f"the snapshot has {total} bytes, {max_bytes} are allowed", limit=max_bytes)
    sums = {}
    for file in manifest.files:
        with telling_full():
            sums[file.name] = await _file(source, file, directory / file.name, disk, run, check_room)
    if _json(await source.member(SUMS, MOST_JSON)) != sums:
        raise InvalidArchive("a file of the snapshot has another hash than the archive says")
    await source.end()
    return manifest.snapshot


async def _file(
    source: _Source, file: ArchivedFile, path: Path, disk: Disk, run: Run, check_room: Callable[[], None]
) -> str:
    hash = hashlib.sha256()
    descriptor = disk.create(path)
    try:
        disk.truncate(descriptor, file.size)
        at = 0
        for name, size in file.parts():
            frame = await source.member(name, MOST_PART)
            await run(check_room)
            await run(partial(_part, disk, descriptor, frame, size, at, hash))
            at += size
    finally:
        os.close(descriptor)
    return hash.hexdigest()


def _part(disk: Disk, descriptor: int, frame: bytes, size: int, at: int, hash: hashlib._Hash) -> None:
    try:
        data = decompress(frame, size)
    except Damaged as error:
        raise InvalidArchive(f"the archive is damaged: {error}") from error
    hash.update(data)
    if data.count(0) != len(data):
        disk.write(descriptor, data, at)


def _manifest(data: bytes) -> Manifest:
    try:
        manifest = Manifest.model_validate_json(data)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise InvalidArchive(f"{MANIFEST} of the archive is wrong: {where}: {problem['msg']}") from None
    if len({file.name for file in manifest.files}) != len(manifest.files):
        raise InvalidArchive(f"{MANIFEST} of the archive names a file twice")
    return manifest


def _json(data: bytes) -> object:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidArchive(f"{SUMS} of the archive is not JSON") from error


class _Source:
    """A tar that must have exactly the members that are asked for, one after the other."""

    def __init__(self, stream: AsyncIterator[bytes]) -> None:
        self._stream = stream
        self._buffer = bytearray()

    async def member(self, name: str, most: int) -> bytes:
        """The next member, which has to be the plain file `name` of at most `most` bytes."""
        try:
            header = tarfile.TarInfo.frombuf(await self._exactly(BLOCK), "utf-8", "strict")
        except (tarfile.HeaderError, UnicodeDecodeError) as error:
            raise InvalidArchive("the archive is not a tar of a snapshot") from error
        if header.name != name or header.type != tarfile.REGTYPE:
            raise InvalidArchive(f"the archive has {header.name[:100]!r} where {name!r} should be")
        if not 0 <= header.size <= most:
            raise InvalidArchive(f"{name} in the archive has an impossible size")
        data = await self._exactly(header.size)
        await self._exactly(-header.size % BLOCK)
        return data

    async def end(self) -> None:
        """Nothing but the padding of the tar follows."""
        if any(await self._exactly(2 * BLOCK)):
            raise InvalidArchive("the archive goes on after its end")
        seen = 0
        rest: bytes | None = bytes(self._buffer)
        while rest is not None:
            seen += len(rest)
            if seen > MOST_PADDING or any(rest):
                raise InvalidArchive("the archive goes on after its end")
            rest = await self._next()

    async def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            piece = await self._next()
            if piece is None:
                raise InvalidArchive("the archive ends too early")
            self._buffer += piece
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    async def _next(self) -> bytes | None:
        try:
            return await anext(self._stream)
        except StopAsyncIteration:
            return None
