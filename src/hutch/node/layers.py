"""Layers: what the steps of template builds have written, each by the key of all that has led to it.

    <cache>/steps/<key>/      a kept disk (`hutch.node.disk`): what a later build of the same steps begins with

Bounded: what was not used for longest goes first.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog

from hutch.errors import BootFailed, DiskFull, InvalidArchive, NotFound, SandboxNotRunning
from hutch.model import LayerInfo
from hutch.node.disk import archive
from hutch.node.disk.entries import Hostile
from hutch.node.disk.feed import read_in_thread
from hutch.node.disk.unpack import unpack
from hutch.node.entry import Entry
from hutch.node.home import disk_free
from hutch.node.packing import Packer
from hutch.node.parts import Parts
from hutch.node.room import SPARE_DISK
from hutch.node.waiting import unless_doomed
from hutch.runtime.base import Handle

log = structlog.get_logger("hutch.node")

MOST_BYTES = 64 << 30
"""Of all files of one layer, whatever its sandbox's disk was."""


class Layers:
    """One a node."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._cache = parts.images.cache
        self._directory = self._cache.root / "steps"
        self._packer = Packer(parts)
        self._used: dict[str, int] = {}
        self._putting = threading.Lock()
        """One layer is put, and others make room for it, at a time: in threads."""

    def find(self, key: str) -> LayerInfo:
        """Say that it is used. Raises `NotFound`."""
        path = self._directory / key
        try:
            size = sum(found.stat().st_size for found in os.scandir(path))
            os.utime(path)
        except FileNotFoundError as error:
            raise NotFound(f"there is no layer {key[:12]}") from error
        return LayerInfo(key=key, bytes=size)

    async def keep(self, entry: Entry, key: str) -> LayerInfo:
        """Keep all that a running sandbox has written; it goes on. Raises `SandboxNotRunning`, `FreezeFailed`,
        `DiskFull`."""
        with suppress(NotFound):
            return self.find(key)
        async with entry.lock, self._cache.lock(f"step-{key}"), self._cache.temporary(f"step-{key}") as work:
            handle = entry.handle
            if not entry.running or handle is None:
                raise SandboxNotRunning(f"{entry.id} does not run")
            self._check_room(entry.record.figures.disk_bytes)
            try:
                await self._packer.pack(entry, handle, work / "layer")
            finally:
                await self._packer.go_on(entry)
            return await self._admit(work / "layer", key)

    async def take_in(self, key: str, stream: AsyncIterator[bytes], most: int) -> LayerInfo:
        """Keep a packed stream that the server has put together. Raises `InvalidArchive`, `DiskFull`."""
        with suppress(NotFound):
            return self.find(key)
        async with self._cache.lock(f"step-{key}"), self._cache.temporary(f"step-{key}") as work:
            self._check_room(0)
            into = work / "layer"
            into.mkdir(mode=0o700)
            try:
                await read_in_thread(stream, lambda source: archive.write(source, into, min(most, MOST_BYTES)))
            except Hostile as error:
                raise InvalidArchive(f"the layer cannot be read: {error}") from error
            return await self._admit(into, key)

    async def restore(self, entry: Entry, handle: Handle, key: str) -> None:
        """Put a layer into a sandbox that has just been booted. Raises `NotFound`, `GuestUnavailable`, `BootFailed`."""
        with self._using(key):
            self.find(key)
            record = entry.record
            putting = self._parts.disks.restore(record.address, record.guest_token, self._directory / key)
            await unless_doomed(entry, putting, handle, BootFailed)

    async def unpack(self, key: str, most: int) -> None:
        """Have it as a directory, for templates to stand on. `most`: bytes of its files, holes too. Raises
        `NotFound`, `TemplateBuildFailed`, `DiskFull`."""
        made = self._parts.images.made
        final = made.layer(key)
        if final.is_dir():
            return
        info = self.find(key)
        self._check_room(info.bytes)
        room = disk_free(self._cache.root) - SPARE_DISK - info.bytes  # the image comes beside the directory
        with self._using(key):
            work = await asyncio.to_thread(made.new_layer, key)
            try:
                await asyncio.to_thread(unpack, self._directory / key, work, min(most, room, MOST_BYTES))
                work.chmod(0o755)
                with suppress(FileExistsError, OSError):  # another has made it meanwhile
                    work.rename(final)
            finally:
                await asyncio.to_thread(self._cache.discard, work)

    async def _admit(self, path: Path, key: str) -> LayerInfo:
        await asyncio.to_thread(self._put, path, key)
        return self.find(key)

    def _put(self, path: Path, key: str) -> None:
        self._directory.mkdir(mode=0o700, exist_ok=True)
        with self._putting:
            path.rename(self._directory / key)
            self._shrink(key)

    def _shrink(self, new: str) -> None:
        """Down to what the settings allow, but for the one that has just come."""
        left = self._parts.settings.build_cache
        for _, path in sorted(((path.stat().st_mtime, path) for path in self._directory.iterdir()), reverse=True):
            left -= sum(found.stat().st_size for found in os.scandir(path))
            if left < 0 and path.name != new and path.name not in self._used:
                log.info("layer forgotten", layer=path.name[:12])
                self._cache.discard(path)

    def _check_room(self, bytes: int) -> None:
        free = min(disk_free(self._cache.root), disk_free(self._parts.home.directory))
        if free < SPARE_DISK + bytes:
            raise DiskFull("this node's disk is full", hint=f"Free some space below {self._cache.root}.")

    @contextmanager
    def _using(self, key: str) -> Iterator[None]:
        self._used[key] = self._used.get(key, 0) + 1
        try:
            yield
        finally:
            self._used[key] -= 1
            if not self._used[key]:
                del self._used[key]
