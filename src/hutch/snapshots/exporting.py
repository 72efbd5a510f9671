"""Writing a snapshot as one stream; the format is in `archive`."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import partial
from pathlib import Path

import zstandard

from hutch.model import SnapshotRecord
from hutch.snapshots.archive import BLOCK, MANIFEST, PART_BYTES, SUMS, ArchivedFile, Manifest, member

LEVEL = 3

Run = Callable[[Callable[[], bytes]], Awaitable[bytes]]
"""Runs blocking work in a thread."""


async def export(record: SnapshotRecord, directory: Path, run: Run) -> AsyncGenerator[bytes, None]:
    """The archive of the plain files in `directory`, one member at a time: a few MiB of memory, whatever the size.
    Raises `OSError`."""
    files = await asyncio.to_thread(_files, directory)
    yield member(MANIFEST, Manifest(snapshot=record, files=files).model_dump_json(indent=2).encode())
    sums: dict[str, str] = {}
    for file in files:
        hash = hashlib.sha256()
        descriptor = os.open(directory / file.name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            for number, (name, size) in enumerate(file.parts()):
                yield await run(partial(_part, name, descriptor, number * PART_BYTES, size, hash))
        finally:
            os.close(descriptor)
        sums[file.name] = hash.hexdigest()
    yield member(SUMS, json.dumps(sums, indent=2).encode()) + bytes(2 * BLOCK)


def _files(directory: Path) -> list[ArchivedFile]:
    return [ArchivedFile(name=path.name, size=path.stat().st_size) for path in sorted(directory.iterdir())]


def _part(name: str, descriptor: int, at: int, size: int, hash: hashlib._Hash) -> bytes:
    data = os.pread(descriptor, size, at)
    if len(data) != size:
        raise OSError(f"{name}: the file became shorter while it was read")
    hash.update(data)
    return member(name, zstandard.ZstdCompressor(level=LEVEL).compress(data))
