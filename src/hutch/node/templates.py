"""Template snapshots: what sandboxes of a template are thawed from. Each is of a sandbox that nobody has ever had."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import structlog

from hutch.errors import HutchError, SnapshotNotFound, ThawFailed
from hutch.images.lookup import BuiltImage
from hutch.model import (
    BootRequest,
    DenyAll,
    Resources,
    SnapshotReason,
    SnapshotRecord,
    SnapshotRequest,
    TemplateInfo,
    new_id,
)
from hutch.node.booting import Booter, Stopwatch
from hutch.node.ending import Ender
from hutch.node.entry import Entry
from hutch.node.parts import Parts
from hutch.node.process import boot_id
from hutch.node.records import SandboxRecord
from hutch.node.room import Room
from hutch.node.tokens import new_token
from hutch.runtime.base import Handle

log = structlog.get_logger("hutch.node")

_LONGEST = 600.0
_QUIETLY = 0.5
"""Cores for a boot that nobody waits for."""
_AGAIN = 300.0
"""Seconds after a snapshot could not be made, or thawed, in which none is made without being asked for."""


_PATIENCE = 3
"""Thaws that may fail before the snapshot is to blame."""


def hidden(template: str, image: str, resources: Resources) -> Entry:
    """A sandbox that is nobody's: no record of it outlives the daemon, no registry knows it."""
    record = SandboxRecord(
        id=new_id("wrm"),
        step="booting",
        template=template,
        resources=resources,
        network=DenyAll(),
        deadline=time.time() + _LONGEST,
        guest_token=new_token(),
        started_at=datetime.now(UTC),
        machine_boot=boot_id(),
        boot_id=str(uuid.uuid4()),
        image=image,
    )
    return Entry(record)


class Templates:
    """Which snapshot stands for which image, and making what is missing."""

    def __init__(self, parts: Parts, booter: Booter, ender: Ender, room: Room) -> None:
        self._parts = parts
        self._booter = booter
        self._ender = ender
        self._room = room
        self._known: dict[str, SnapshotRecord] = {}
        """By the image's hash; the newest."""
        self._making: dict[str, asyncio.Task[SnapshotRecord]] = {}
        self._troubles: dict[str, tuple[float, str]] = {}
        """By the image's hash: when one was not made, or not thawed, and why."""
        self._failures: dict[str, int] = {}
        """By the snapshot's id: thaws that failed one after the other."""
        self._one = asyncio.Lock()

    async def load(self) -> None:
        """Find what earlier daemons have made."""
        for record in await self._all():
            if record.runtime.image is not None:
                self._known[record.runtime.image] = record

    @property
    def images(self) -> set[str]:
        """Hashes of images of which one is being made just now."""
        return set(self._making)

    def find(self, image: BuiltImage, resources: Resources) -> tuple[SnapshotRecord | None, str]:
        """What a sandbox of these resources can be thawed from; if nothing, why."""
        name = image.recipe.name
        if not self._parts.settings.template_snapshots:
            return None, "template snapshots are turned off"
        known = self._known.get(image.hash)
        if known is None:
            trouble = self._troubles.get(image.hash)
            if trouble is not None:
                return None, f"the template {name} has no snapshot: {trouble[1]}"
            return None, f"the template {name} has no snapshot yet"
        if (other := _other(known, resources)) is not None:
            return None, f"the snapshot of the template {name} has another {other}, which a thaw cannot change"
        return known, ""

    def ready(self, template: TemplateInfo) -> bool:
        """Whether sandboxes of it, with its own resources, are thawed."""
        known = self._known.get(template.image or "")
        return known is not None and _other(known, template.resources) is None

    def want(self, image: BuiltImage) -> None:
        """Make one in the background, unless it is there, is being made, or has failed lately."""
        trouble = self._troubles.get(image.hash)
        lately = trouble is not None and time.monotonic() - trouble[0] < _AGAIN
        if self._parts.settings.template_snapshots and not self._fits(image) and not lately:
            self._make(image, _QUIETLY)

    async def make(self, image: BuiltImage, *, anew: bool = False) -> SnapshotRecord:
        """The snapshot for this image, made now when it is missing or to be made `anew`. It is made to its end when the
        caller has gone. Raises `BootFailed` when the template's own processes are to blame, and what keeps it from
        being made else."""
        known = self._known.get(image.hash)
        if known is not None and not anew and self._fits(image):
            return known
        return await asyncio.shield(self._make(image, None))

    async def try_out(self, image: BuiltImage) -> None:
        """Boot it once, with its resident processes, where no snapshot is made of it. Raises `BootFailed`, and what
        keeps it from being booted else."""
        async with self._one, self._nobodys(image) as entry:
            await self._boot(entry, image, None)

    def worked(self, snapshot: SnapshotRecord) -> None:
        """It was thawed."""
        self._failures.pop(snapshot.id, None)

    async def failed(self, snapshot: SnapshotRecord, why: HutchError) -> None:
        """It was not thawed. One that does not fit here, or fails again and again, goes; another is made when one is
        wanted."""
        failures = self._failures[snapshot.id] = self._failures.get(snapshot.id, 0) + 1
        if isinstance(why, ThawFailed) and failures < _PATIENCE:
            return
        self._failures.pop(snapshot.id, None)
        log.warning("template snapshot given up", template=snapshot.template, snapshot=snapshot.id, reason=why.detail)
        image = snapshot.runtime.image or ""
        known = self._known.get(image)
        if known is not None and known.id == snapshot.id:
            del self._known[image]
            if isinstance(why, ThawFailed):
                self._troubles[image] = (time.monotonic(), why.detail)
        await self._delete(snapshot)

    async def tidy(self) -> None:
        """Take away those of images that are no template's any more, and forget what went wrong with them."""
        current = await asyncio.to_thread(self._parts.images.templates)
        hashes = {template.image for template in current}
        records = await self._all()
        self._troubles = {image: trouble for image, trouble in self._troubles.items() if image in hashes}
        self._failures = {record.id: self._failures[record.id] for record in records if record.id in self._failures}
        for record in records:
            image = record.runtime.image or ""
            known = self._known.get(image)
            if image in self._making or (image in hashes and known is not None and known.id == record.id):
                continue
            if known is not None and known.id == record.id:
                del self._known[image]
            await self._delete(record)

    async def stop(self) -> None:
        """Give up what is being made; the caller removes what is left of it, or the next daemon does."""
        for task in self._making.values():
            task.cancel()
        await asyncio.gather(*self._making.values(), return_exceptions=True)

    def _fits(self, image: BuiltImage) -> bool:
        known = self._known.get(image.hash)
        return known is not None and _other(known, image.recipe.resources) is None

    def _make(self, image: BuiltImage, cpus: float | None) -> asyncio.Task[SnapshotRecord]:
        task = self._making.get(image.hash)
        if task is None:
            task = self._making[image.hash] = asyncio.create_task(self._make_one(image, cpus))
            task.add_done_callback(lambda done: self._made(image, done))
        return task

    def _made(self, image: BuiltImage, task: asyncio.Task[SnapshotRecord]) -> None:
        self._making.pop(image.hash, None)
        if task.cancelled() or (error := task.exception()) is None:
            return
        why = error.detail if isinstance(error, HutchError) else f"{type(error).__name__}: {error}"
        self._troubles[image.hash] = (time.monotonic(), why)
        known = error if not isinstance(error, HutchError | OSError) else None
        log.warning("template snapshot not made", template=image.recipe.name, reason=why, exc_info=known)

    async def _make_one(self, image: BuiltImage, cpus: float | None) -> SnapshotRecord:
        async with self._one, self._nobodys(image) as entry:
            record = await self._freeze(entry, image, cpus)
        self._known[image.hash] = record
        self._troubles.pop(image.hash, None)
        log.info("template snapshot made", template=record.template, snapshot=record.id, bytes=record.logical_bytes)
        for other in await self._all():
            if other.runtime.image == image.hash and other.id != record.id:
                await self._delete(other)
        return record

    @asynccontextmanager
    async def _nobodys(self, image: BuiltImage) -> AsyncIterator[Entry]:
        """A sandbox of it that nobody has ever had, gone in the end."""
        self._room.check()
        entry = hidden(image.recipe.name, image.hash, image.recipe.resources)
        entry.record = entry.record.but(user=image.recipe.user, workdir=image.recipe.workdir)
        try:
            yield entry
        finally:
            await asyncio.shield(self._remove(entry))

    async def _boot(self, entry: Entry, image: BuiltImage, cpus: float | None) -> Handle:
        record = entry.record
        request = BootRequest(
            template=record.template, resources=record.resources, network=record.network, deadline=record.deadline
        )
        return await self._booter.boot(entry, image, request, Stopwatch(), cpus)

    async def _freeze(self, entry: Entry, image: BuiltImage, cpus: float | None) -> SnapshotRecord:
        parts = self._parts
        handle = await self._boot(entry, image, cpus)
        wanted = SnapshotRequest(snapshot=new_id("snp"), reason=SnapshotReason.TEMPLATE)
        into = parts.records.frozen_directory(entry.id, wanted.snapshot)
        frozen = await parts.runtime.freeze(handle, into, keep_running=False)
        return await parts.snapshots.admit(entry.record, frozen.path, wanted, frozen.stopped_ms)

    async def _remove(self, entry: Entry) -> None:
        await self._ender.take_off(entry)
        await self._parts.records.remove(entry.id)

    async def _delete(self, record: SnapshotRecord) -> None:
        try:
            await self._parts.snapshots.delete(record.id)
        except SnapshotNotFound:
            pass
        except HutchError as error:
            log.error("template snapshot not removed; will be tried again", snapshot=record.id, error=str(error))

    async def _all(self) -> list[SnapshotRecord]:
        """Oldest first."""
        records = await self._parts.snapshots.records()
        return [record for record in records if record.reason is SnapshotReason.TEMPLATE]


def _other(snapshot: SnapshotRecord, resources: Resources) -> str | None:
    """What a thaw cannot change and would have to."""
    own = snapshot.resources or resources
    if own.disk_mib != resources.disk_mib:
        return f"disk size ({own.disk_mib} MiB)"
    if own.pids != resources.pids:
        return f"process limit ({own.pids})"
    return None
