"""The warm pool: sandboxes that were thawed ahead of demand and are nobody's until they are claimed."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import structlog

from hutch.errors import HutchError
from hutch.images.lookup import BuiltImage
from hutch.model import Resources, WarmTemplate
from hutch.node.demand import Demand
from hutch.node.ending import Ender
from hutch.node.entry import Entry
from hutch.node.parts import Parts
from hutch.node.process import process_end
from hutch.node.room import Room
from hutch.runtime.base import Handle

log = structlog.get_logger("hutch.node")

_GUESS = 48 << 20
"""Bytes of memory that the first member of a template is taken to need."""
_DEFAULT_SHARE, _DEFAULT_MOST = 0.05, 1 << 30


@dataclass(eq=False)
class Member:
    """One that waits."""

    entry: Entry
    handle: Handle
    token: str
    """What its guest asks for before it has been introduced."""
    memory: int


@dataclass(eq=False)
class Shelf:
    """What is known of one template."""

    template: str
    demand: Demand = field(default_factory=Demand)
    members: list[Member] = field(default_factory=list)
    """Oldest first."""
    target: int = 0
    bytes_each: int = _GUESS
    not_before: float = 0.0
    """When one may be thawed for it again (`time.monotonic()`)."""


class WarmPool:
    """Who waits, for whom. Members are in no registry, and are lent once: who takes one off its shelf has it, and
    nothing in between waits. `hutch.node.keeping` fills and drains it."""

    def __init__(self, parts: Parts, ender: Ender, room: Room) -> None:
        self._parts = parts
        self._ender = ender
        self._room = room
        self.shelves: dict[str, Shelf] = {}
        self.news = asyncio.Event()
        """Something has changed, which the keeper should look at."""
        self.filling: str | None = None
        """The image of which one is being thawed."""
        self._deaths: dict[Member, asyncio.Task[None]] = {}
        self._ends: set[asyncio.Task[None]] = set()
        settings = parts.settings
        self.limit = _limit(settings.warm_pool_mib) if settings.template_snapshots else 0
        """Bytes that all members together may take; 0: there is no pool."""

    def __iter__(self) -> Iterator[Member]:
        return (member for shelf in list(self.shelves.values()) for member in list(shelf.members))

    def __len__(self) -> int:
        return sum(len(shelf.members) for shelf in self.shelves.values())

    @property
    def images(self) -> set[str]:
        """Hashes of the images that members stand on."""
        return {member.entry.record.image for member in self} | ({self.filling} if self.filling is not None else set())

    def view(self) -> list[WarmTemplate]:
        """What there is."""
        return [
            WarmTemplate(
                template=shelf.template,
                ready=len(shelf.members),
                target=shelf.target,
                memory_bytes=sum(member.memory for member in shelf.members),
            )
            for _, shelf in sorted(self.shelves.items())
            if shelf.target or shelf.members
        ]

    def wanted(self, image: BuiltImage, resources: Resources) -> None:
        """Note that a sandbox is asked for, if the pool may have such a one."""
        if self.limit > 0 and _same(image.recipe.resources, resources):
            name = image.recipe.name
            self.shelves.setdefault(name, Shelf(name)).demand.note(time.monotonic())

    def take(self, image: BuiltImage, resources: Resources) -> Member | None:
        """The oldest that fits; it is the caller's now."""
        shelf = self.shelves.get(image.recipe.name)
        for member in shelf.members if shelf is not None else ():
            record = member.entry.record
            if record.image == image.hash and _same(record.resources, resources):
                self._off_shelf(member)
                return member
        return None

    def put(self, shelf: Shelf, member: Member) -> None:
        """One more waits."""
        shelf.members.append(member)
        shelf.bytes_each = max(1, *(each.memory for each in shelf.members))
        self._deaths[member] = asyncio.create_task(self._mourn(member))
        self._count()

    def drop(self, member: Member) -> None:
        """Remove one that waits, in the background."""
        self._off_shelf(member)
        end = asyncio.create_task(self.remove(member.entry))
        self._ends.add(end)
        end.add_done_callback(self._ends.discard)

    async def remove(self, entry: Entry) -> None:
        """All of one that is on no shelf."""
        try:
            await self._ender.take_off(entry)
            await self._parts.records.remove(entry.id)
        except (HutchError, OSError) as error:  # the next daemon sweeps it
            log.error("a warm sandbox was not removed", member=entry.id, error=str(error))

    async def empty(self) -> None:
        """Remove all that wait."""
        for member in self:
            self.drop(member)
        await asyncio.gather(*self._ends, return_exceptions=True)

    def _off_shelf(self, member: Member) -> None:
        self.shelves[member.entry.record.template].members.remove(member)
        self._deaths.pop(member).cancel()
        self._count()

    async def _mourn(self, member: Member) -> None:
        await process_end(member.handle.pid)
        log.warning("a warm sandbox died", member=member.entry.id, template=member.entry.record.template)
        self.drop(member)
        self.news.set()

    def _count(self) -> None:
        self._room.spare["warm"] = sum(member.memory for member in self)


def _same(own: Resources, wanted: Resources) -> bool:
    """CPUs are set at the claim; the rest is as it was thawed."""
    return own.model_copy(update={"cpus": wanted.cpus}) == wanted


def _limit(mib: int | None) -> int:
    if mib is not None:
        return mib << 20
    return min(_DEFAULT_MOST, int(_DEFAULT_SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")))
