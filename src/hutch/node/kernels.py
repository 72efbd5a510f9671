"""Kernels that were begun ahead: nobody's, with nothing in them, until something is thawed in one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import structlog

from hutch.errors import HutchError
from hutch.model import Resources
from hutch.node.demand import Demand
from hutch.node.ending import Ender
from hutch.node.entry import Entry
from hutch.node.parts import Parts
from hutch.node.process import process_end
from hutch.node.records import SandboxRecord
from hutch.node.room import Room
from hutch.runtime.base import Handle

log = structlog.get_logger("hutch.node")


@dataclass(frozen=True)
class Shape:
    """What a kernel has to know when it is begun. How many CPUs it may use is said later."""

    image: str
    memory_mib: int
    disk_mib: int
    pids: int

    @classmethod
    def of(cls, record: SandboxRecord) -> Shape:
        """Which one a sandbox wants to be thawed in."""
        own = record.resources
        return cls(record.image, own.memory_mib, own.disk_mib, own.pids)

    def resources(self, cpus: float) -> Resources:
        """With so many cores."""
        return Resources(cpus=cpus, memory_mib=self.memory_mib, disk_mib=self.disk_mib, pids=self.pids)


@dataclass(eq=False)
class Begun:
    """A kernel that waits."""

    entry: Entry
    handle: Handle
    memory: int
    cpu_seconds: float
    """What it has used, and will not have used more of while it waits."""


@dataclass(eq=False)
class Rack:
    """What is known of one shape."""

    shape: Shape
    demand: Demand = field(default_factory=Demand)
    waiting: list[Begun] = field(default_factory=list)
    target: int = 0
    not_before: float = 0.0
    """When one may be begun for it again (`time.monotonic()`)."""


class Kernels:
    """Which wait, and which shapes were wanted of late. They are in no registry, and are lent once: who takes one has
    it, and nothing in between waits. `hutch.node.beginning` begins and removes them."""

    def __init__(self, parts: Parts, ender: Ender, room: Room) -> None:
        self._parts = parts
        self._ender = ender
        self._room = room
        self.limit = parts.settings.kernels_ahead if parts.runtime.begins else 0
        """How many may wait; 0: none are begun."""
        self.racks: dict[Shape, Rack] = {}
        self.news = asyncio.Event()
        """Something has changed, which whoever begins them should look at."""
        self.beginning: str | None = None
        """The image for which one is being begun."""
        self._deaths: dict[Begun, asyncio.Task[None]] = {}
        self._ends: set[asyncio.Task[None]] = set()

    def __iter__(self) -> Iterator[Begun]:
        return (begun for rack in list(self.racks.values()) for begun in list(rack.waiting))

    def __len__(self) -> int:
        return sum(len(rack.waiting) for rack in self.racks.values())

    @property
    def memory_bytes(self) -> int:
        """What all that wait take."""
        return sum(begun.memory for begun in self)

    @property
    def images(self) -> set[str]:
        """Hashes of the images that they stand on."""
        coming = {self.beginning} if self.beginning is not None else set()
        return {begun.entry.record.image for begun in self} | coming

    def wanted(self, record: SandboxRecord) -> None:
        """Note that this sandbox is thawed, or saved, so that it or another of its kind may soon be thawed."""
        if self.limit > 0:
            shape = Shape.of(record)
            self.racks.setdefault(shape, Rack(shape)).demand.note(time.monotonic())
            self.news.set()

    def take(self, record: SandboxRecord) -> Begun | None:
        """The oldest that this sandbox may be thawed in; it is the caller's now."""
        rack = self.racks.get(Shape.of(record))
        if rack is None or not rack.waiting:
            return None
        begun = rack.waiting[0]
        self._off_rack(begun)
        self.news.set()
        return begun

    def put(self, rack: Rack, begun: Begun) -> None:
        """One more waits."""
        rack.waiting.append(begun)
        self._deaths[begun] = asyncio.create_task(self._mourn(begun))
        self._count()

    def drop(self, begun: Begun) -> None:
        """Remove one that waits, in the background."""
        self._off_rack(begun)
        end = asyncio.create_task(self.remove(begun.entry))
        self._ends.add(end)
        end.add_done_callback(self._ends.discard)

    async def remove(self, entry: Entry) -> None:
        """All of one that does not wait."""
        try:
            await self._ender.take_off(entry)
            await self._parts.records.remove(entry.id)
        except (HutchError, OSError) as error:  # the next daemon sweeps it
            log.error("a kernel that was begun ahead was not removed", kernel=entry.id, error=str(error))

    async def empty(self) -> None:
        """Remove all that wait."""
        for begun in self:
            self.drop(begun)
        await asyncio.gather(*self._ends, return_exceptions=True)

    def _off_rack(self, begun: Begun) -> None:
        self.racks[Shape.of(begun.entry.record)].waiting.remove(begun)
        self._deaths.pop(begun).cancel()
        self._count()

    async def _mourn(self, begun: Begun) -> None:
        await process_end(begun.handle.pid)
        log.warning("a kernel that was begun ahead died", kernel=begun.entry.id)
        self.drop(begun)
        self.news.set()

    def _count(self) -> None:
        self._room.spare["kernels"] = self.memory_bytes
