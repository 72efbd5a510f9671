"""Putting a saved disk into a sandbox that has just been booted, before anything runs in it on its owner's behalf."""

from __future__ import annotations

import asyncio
from pathlib import Path

import structlog

from hutch.errors import (
    BootFailed,
    GuestUnavailable,
    InvalidRequest,
    InvalidTemplate,
    TemplateNotBuilt,
    ThawFailed,
    UnknownTemplate,
)
from hutch.node.disk import archive
from hutch.node.entry import Entry
from hutch.node.parts import Parts
from hutch.node.residents import Residents
from hutch.node.tokens import new_token
from hutch.node.waiting import unless_doomed
from hutch.runtime.base import Handle

log = structlog.get_logger("hutch.node")

_READY_SECONDS = 30.0


class Filler:
    """The guest does it: see `hutch.node.disk`."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._guests = parts.disks

    async def fill(
        self, entry: Entry, handle: Handle, snapshot: Path, env: dict[str, str] | None, boot_id: str
    ) -> None:
        """`env` None: as it was when the disk was saved. Raises `ThawFailed`, `InvalidRequest` for an `env` that the
        guest refuses, `SnapshotCorrupt`, `SandboxNotRunning`."""
        saved = await asyncio.to_thread(archive.read_manifest, snapshot)
        try:
            await self.prepare(entry, handle, saved.env if env is None else env, boot_id)
            record = entry.record
            # From here on it works on what its owner has left.
            await self._parts.runtime.limit_cpus(handle, record.resources.cpus)
            putting = self._guests.restore(record.address, record.guest_token, snapshot)
            await unless_doomed(entry, putting, handle, ThawFailed)
        except GuestUnavailable as error:
            if error.extra.get("status") == 400 and env:
                raise InvalidRequest(f"the guest refuses the environment: {error.detail}", field="env") from error
            raise ThawFailed(f"{entry.id} was booted, but not given its disk: {error.detail}") from error
        await self._start_residents(entry, handle)

    async def _start_residents(self, entry: Entry, handle: Handle) -> None:
        """As at a boot. What its owner has made of the disk may keep them from it, and must not keep the owner out."""
        record = entry.record
        try:
            image = await asyncio.to_thread(self._parts.images.resolve, record.template)
            if image.recipe.start or image.recipe.ready is not None:
                starting = Residents(self._parts.guests).start(image.recipe, record.address, record.guest_token)
                await unless_doomed(entry, starting, handle, ThawFailed)
        except (BootFailed, UnknownTemplate, InvalidTemplate, TemplateNotBuilt) as error:
            log.warning("resident processes not started", sandbox=entry.id, error=error.detail)

    async def prepare(self, entry: Entry, handle: Handle, env: dict[str, str], boot_id: str) -> None:
        """Tell the guest of a sandbox that has just been booted who it is, with a new token."""
        record = entry.record = entry.record.but(guest_token=new_token(), next_token="")
        who = (record.address, entry.id, record.guest_token, boot_id)
        prepare = self._parts.guests.prepare(
            *who,
            env,
            record.resources,
            within=_READY_SECONDS,
            secrets=self._parts.secrets.introduction(entry.id),
        )
        await unless_doomed(entry, prepare, handle, ThawFailed)
