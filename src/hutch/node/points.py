"""The points that can be compared: a snapshot with a disk, one with memory, a sandbox that runs, and the bare image."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from contextlib import AsyncExitStack
from pathlib import Path

from hutch.errors import SandboxNotRunning
from hutch.model import SnapshotRecord
from hutch.node.disk import archive
from hutch.node.disk.comparing import Listing
from hutch.node.disk.entries import Entry
from hutch.node.disk.listing import Kept, from_archive
from hutch.node.disk.texts import MOST_FILE
from hutch.node.entry import Entry as Sandbox
from hutch.node.parts import Parts
from hutch.node.peeking import Guest, Peeker

Contents = list[bytes | None]


class Point(ABC):
    """Used for one comparison. What it opens is closed with the `AsyncExitStack` it was made with."""

    image: str | None = None
    """Hash of its image; None fits every image."""

    @abstractmethod
    async def listing(self) -> Listing:
        """What differs from the image."""

    async def guest(self) -> Guest | None:
        """One that sees its image; None where none sees the files either."""
        return None

    @abstractmethod
    async def read(self, paths: list[str]) -> Contents:
        """Files of its listing; None for what is none, or is larger than a text may be."""


class Bare(Point):
    """Nothing was written."""

    async def listing(self) -> Listing:
        return {}

    async def read(self, paths: list[str]) -> Contents:
        return [None] * len(paths)


class Live(Point):
    """A sandbox as it is, while it goes on."""

    def __init__(self, parts: Parts, sandbox: Sandbox) -> None:
        self._disks = parts.disks
        self._sandbox = sandbox
        self._handle = sandbox.handle
        self.image = sandbox.record.image

    async def listing(self) -> Listing:
        guest = await self.guest()
        return await self._disks.changes(guest.address, guest.token, still=False)

    async def guest(self) -> Guest:
        """To be asked for anew before each call: the address of a sandbox that was paused meanwhile is another's, and
        one that was taken back is not what it was. Raises `SandboxNotRunning`."""
        sandbox = self._sandbox
        if not sandbox.running or sandbox.handle is not self._handle:
            raise SandboxNotRunning(f"{sandbox.id} was paused or taken back while it was looked at")
        return Guest(sandbox.record.address, sandbox.record.guest_token)

    async def read(self, paths: list[str]) -> Contents:
        guest = await self.guest()
        return await self._disks.read(guest.address, guest.token, "now", paths, MOST_FILE)


class OnDisk(Point):
    """A snapshot whose disk can be read where it lies."""

    def __init__(self, parts: Parts, record: SnapshotRecord, kept: Kept) -> None:
        self._parts = parts
        self._kept = kept
        self.record = record
        self.image = record.runtime.image

    async def listing(self) -> Listing:
        if (known := await asyncio.to_thread(self._kept.get, self.record.id)) is not None:
            return known
        async with self._parts.snapshots.opened(self.record.id) as (directory, _):
            found = await asyncio.to_thread(from_archive, directory)
        await asyncio.to_thread(self._kept.put, self.record.id, found)
        return found

    async def read(self, paths: list[str]) -> Contents:
        async with self._parts.snapshots.opened(self.record.id) as (directory, _):
            return await asyncio.to_thread(_read, directory, paths)


class InMemory(Point):
    """A snapshot whose files only its own kernel knows: a hidden copy is asked."""

    def __init__(
        self, parts: Parts, record: SnapshotRecord, kept: Kept, peeker: Peeker, opened: AsyncExitStack
    ) -> None:
        self._disks = parts.disks
        self._kept = kept
        self._peeker = peeker
        self._opened = opened
        self._guest: Guest | None = None
        self.record = record
        self.image = record.runtime.image

    async def listing(self) -> Listing:
        known = await asyncio.to_thread(self._kept.get, self.record.id)
        return known if known is not None else await self._open()

    async def guest(self) -> Guest:
        if self._guest is None:
            await self._open()
        assert self._guest is not None
        return self._guest

    async def read(self, paths: list[str]) -> Contents:
        guest = await self.guest()
        return await self._disks.read(guest.address, guest.token, "now", paths, MOST_FILE)

    async def _open(self) -> Listing:
        """Its listing comes with the standing still: the copy must not change what is read of it."""
        guest = await self._opened.enter_async_context(self._peeker.copy(self.record))
        found = await self._disks.changes(guest.address, guest.token, still=True)
        self._guest = guest
        await asyncio.to_thread(self._kept.put, self.record.id, found)
        return found


def _read(directory: Path, paths: list[str]) -> Contents:
    wanted, found, links = set(paths), dict[str, Entry](), dict[str, str]()
    for entry in archive.read_index(directory):
        if entry["type"] == "hardlink" and entry["path"] in wanted:
            links[entry["path"]] = entry["target"]
    wanted |= set(links.values())
    for entry in archive.read_index(directory):
        if entry["path"] in wanted and entry["type"] == "file" and entry["size"] <= MOST_FILE:
            found[entry["path"]] = entry
    entries = [found.get(links.get(path, path)) for path in paths]
    return [archive.content(directory, entry) if entry is not None else None for entry in entries]
