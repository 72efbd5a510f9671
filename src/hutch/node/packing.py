"""Saving what a running sandbox has written, without its memory. Called with the sandbox's lock held."""

from __future__ import annotations

import asyncio
import shutil
import time
from pathlib import Path

import structlog

from hutch.errors import FreezeFailed, GuestUnavailable, HutchError
from hutch.node.entry import Entry
from hutch.node.parts import Parts
from hutch.node.tokens import renew_token
from hutch.node.waiting import unless_doomed
from hutch.runtime.base import Frozen, Handle

log = structlog.get_logger("hutch.node")

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
        record = entry.record = entry.record.but(still=True)
        try:
            await self._parts.records.save(record)
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
        """Let it go on after `pack`; nothing when it does not stand still. Until its guest has answered that it does,
        the record says `still`, for those who finish what was left undone."""
        if entry.record.still and (await self._told(entry) or await self._told(entry)):
            entry.record = entry.record.but(still=False)
            await self._keep(entry)

    async def _told(self, entry: Entry) -> bool:
        record = entry.record
        try:
            await self._guests.go_on(record.address, record.guest_token)
        except (HutchError, OSError) as error:
            if isinstance(error, GuestUnavailable) and error.extra.get("status") in _TOO_OLD:
                return True  # it cannot be made to stand still
            log.warning("guest does not say that it goes on", sandbox=entry.id, error=str(error))
            return False
        return True

    async def _keep(self, entry: Entry) -> None:
        try:
            await self._parts.records.save(entry.record)
        except OSError as error:
            log.error("record not written", sandbox=entry.id, error=str(error))

    async def _undo(self, entry: Entry, partial: Path) -> None:
        await asyncio.to_thread(shutil.rmtree, partial, ignore_errors=True)
        await self.go_on(entry)


def _make_anew(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(mode=0o700)
