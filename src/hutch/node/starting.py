"""How a new sandbox comes to run: claimed from the warm pool, else thawed from its template's snapshot, else booted."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import structlog

from hutch.errors import SnapshotCorrupt, SnapshotIncompatible, SnapshotNotFound, ThawFailed
from hutch.images.lookup import BuiltImage
from hutch.model import BootRequest, BuildBoot, SnapshotRecord
from hutch.node.booting import Booter, Stopwatch
from hutch.node.claiming import Claimer
from hutch.node.ending import Ender
from hutch.node.entry import Entry
from hutch.node.layers import Layers
from hutch.node.parts import Parts
from hutch.node.room import Need, Room
from hutch.node.templates import Templates
from hutch.node.thawing import Thawer
from hutch.runtime.base import Handle

log = structlog.get_logger("hutch.node")


class Starter:
    """Takes an entry from nothing to `running`. On an error it cleans up nothing: its caller does."""

    def __init__(
        self,
        parts: Parts,
        booter: Booter,
        thawer: Thawer,
        ender: Ender,
        templates: Templates,
        claimer: Claimer,
        layers: Layers,
        room: Room,
    ) -> None:
        self._parts = parts
        self._room = room
        self._booter = booter
        self._thawer = thawer
        self._ender = ender
        self._templates = templates
        self._claimer = claimer
        self._layers = layers

    async def start(self, entry: Entry, request: BootRequest, watch: Stopwatch) -> Handle:
        """The record says `running`, and how it came to that, when this returns."""
        if request.from_snapshot is not None:
            source = await self._parts.snapshots.get(request.from_snapshot)
            with self._room.coming(entry, Need.of(source, request.resources)):
                return await self._thawer.fork(entry, request, watch)
        image = await asyncio.to_thread(self._parts.images.resolve, request.template)
        watch.lap("image")
        entry.record = entry.record.but(user=image.recipe.user, workdir=image.recipe.workdir, image=image.hash)
        if request.build is not None:
            return await self._for_steps(entry, image, request, request.build, watch)
        handle = await self._claimer.claim(entry, image, request, watch)
        return handle or await self._thaw_or_boot(entry, image, request, watch)

    async def _for_steps(
        self, entry: Entry, image: BuiltImage, request: BootRequest, build: BuildBoot, watch: Stopwatch
    ) -> Handle:
        """Nothing of the template runs in it: what its resident processes write must not come into the next image."""
        bare = replace(image, recipe=image.recipe.model_copy(update={"start": [], "ready": None}))
        entry.record = entry.record.but(start="boot", start_reason="it is for the steps of a template's build")
        with self._room.coming(entry, Need.of_boot(request.resources)):
            handle = await self._booter.boot(entry, bare, request, watch)
        if build.layer is not None:
            await self._layers.restore(entry, handle, build.layer)
        return handle

    async def _thaw_or_boot(self, entry: Entry, image: BuiltImage, request: BootRequest, watch: Stopwatch) -> Handle:
        snapshot, why = self._templates.find(image, request.resources)
        need = Need.of_boot(request.resources) if snapshot is None else Need.of(snapshot, request.resources)
        with self._room.coming(entry, need):
            return await self._from(snapshot, why, entry, image, request, watch)

    async def _from(
        self,
        snapshot: SnapshotRecord | None,
        why: str,
        entry: Entry,
        image: BuiltImage,
        request: BootRequest,
        watch: Stopwatch,
    ) -> Handle:
        if snapshot is not None:
            try:
                handle = await self._thawer.begin(entry, snapshot.id, request, watch)
            except (SnapshotIncompatible, SnapshotCorrupt, SnapshotNotFound, ThawFailed) as error:
                why = f"the snapshot of the template {image.recipe.name} was not thawed: {error.detail}"
                await self._ender.take_off(entry)
                # A thaw may also fail because the caller's own limits are too low for it.
                if not isinstance(error, ThawFailed) or request.resources == image.recipe.resources:
                    await self._templates.failed(snapshot, error)
            else:
                self._templates.worked(snapshot)
                return handle
        entry.record = entry.record.but(start="boot", start_reason=why)
        log.info("sandbox is booted", sandbox=entry.id, reason=why)
        handle = await self._booter.boot(entry, image, request, watch)
        self._templates.want(image)
        return handle
