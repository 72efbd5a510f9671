"""Saving what a running sandbox has written, without its memory. Called with the sandbox's lock held."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from pathlib import Path

from hutch.errors import FreezeFailed, GuestUnavailable
from hutch.node.entry import Entry
from hutch.node.parts import Parts
from hutch.node.tokens import renew_token
from hutch.node.waiting import unless_doomed
from hutch.runtime.base import Frozen, Handle

_SLACK = 64 << 20
_TOO_OLD = (404, 405)


class Packer:
    """The guest does the packing: see `hutch.node.disk`."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._guests = parts.disks

    async def pack(self, entry: Entry, handle: Handle, into: Path) -> Frozen:
        """Its disk, as the directory `into`, which appears when it is whole. The sandbox stands still from then on.
        Raises `FreezeFailed`, `SandboxNotRunning`, `OSError`; then nothing is left, and it goes on."""
        started = time.monotonic()
        partial = into.with_name(into.name + ".disk")
        if entry.record.next_token:  # which of the two is in force, it would have to be asked
            await renew_token(self._parts, entry)
        record = entry.record
        try:
            await asyncio.to_thread(_make_anew, partial)
            most = (record.resources.disk_mib << 20) + _SLACK
            packing = self._guests.pack(record.address, record.guest_token, partial, most)
            manifest = await unless_doomed(entry, packing, handle, FreezeFailed)
            await asyncio.to_thread(partial.rename, into)
        except GuestUnavailable as error:
            await self._undo(entry, partial)
            hint = None
            if error.extra.get("status") in _TOO_OLD:
                hint = "It was booted by an earlier version of Hutch: pause it with its memory, or make it anew."
            raise FreezeFailed(f"{entry.id}: {error.detail}", hint=hint) from error
        except BaseException:
            await self._undo(entry, partial)
            raise
        took = round((time.monotonic() - started) * 1000, 1)
        return Frozen(into, manifest.index_bytes + manifest.pages_bytes, took)

    async def go_on(self, entry: Entry) -> None:
        """Let it go on after `pack`; nothing when it does not stand still, or is dead."""
        record = entry.record
        with contextlib.suppress(GuestUnavailable):
            await self._guests.go_on(record.address, record.guest_token)

    async def _undo(self, entry: Entry, partial: Path) -> None:
        await asyncio.to_thread(shutil.rmtree, partial, ignore_errors=True)
        await self.go_on(entry)


def _make_anew(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(mode=0o700)
