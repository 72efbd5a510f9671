"""Looking into a snapshot: a hidden copy of it, of which only the guest is asked, and which nobody else ever reaches.

It has no network, no key and no environment of its owner's, and all but its guest stands still. No registry knows it: a
daemon that comes after a `kill -9` sweeps it as it sweeps the warm pool.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import structlog

from hutch.errors import HutchError, ThawFailed
from hutch.model import SnapshotRecord
from hutch.node.ending import Ender
from hutch.node.entry import Entry
from hutch.node.parts import Parts
from hutch.node.room import Room
from hutch.node.templates import hidden
from hutch.node.thawing import Thawer

log = structlog.get_logger("hutch.node")

_CPUS = 1.0


@dataclass(frozen=True)
class Guest:
    """Whom to ask."""

    address: str
    token: str


class Peeker:
    """Whoever asks must have a turn, and two copies at most: two who each wait for the other's would wait for ever."""

    def __init__(self, parts: Parts, thawer: Thawer, ender: Ender, room: Room) -> None:
        self._parts = parts
        self._thawer = thawer
        self._ender = ender
        self._room = room

    def copy(self, snapshot: SnapshotRecord) -> AbstractAsyncContextManager[Guest]:
        """The snapshot, thawed. Raises as a resume does, and `LimitReached`."""
        return self._made(snapshot, lambda entry: self._thawer.aside(entry, snapshot.id))

    def image(self, snapshot: SnapshotRecord) -> AbstractAsyncContextManager[Guest]:
        """Its image, booted."""
        return self._made(snapshot, self._thawer.bare)

    @asynccontextmanager
    async def _made(self, snapshot: SnapshotRecord, make: Callable[[Entry], Awaitable[None]]) -> AsyncIterator[Guest]:
        self._room.check()
        if snapshot.resources is None:
            raise ThawFailed(f"{snapshot.id} does not say how large its sandbox was")
        resources = snapshot.resources.model_copy(update={"cpus": _CPUS})
        entry = hidden(snapshot.template or "", snapshot.runtime.image or "", resources)
        try:
            await make(entry)
            yield Guest(entry.record.address, entry.record.guest_token)
        finally:
            await asyncio.shield(asyncio.create_task(self._remove(entry)))

    async def _remove(self, entry: Entry) -> None:
        try:
            await self._ender.take_off(entry)
            await self._parts.records.remove(entry.id)
        except (HutchError, OSError) as error:  # the next daemon sweeps it
            log.error("a hidden copy was not removed", copy=entry.id, error=str(error))
