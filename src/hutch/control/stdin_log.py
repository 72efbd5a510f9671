"""Input of commands and terminals, for the audit log: who has sent how much, to what. Not its text, which holds
passwords, and not each key: `begun` is recorded before the first byte is passed on, sums once a minute after it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import NamedTuple

import structlog

from hutch.store.audit import Acting, Audit, Event, acting_now

log = structlog.get_logger("hutch.control")

SECONDS = 60.0


class Source(NamedTuple):
    """Whose input it is, and where it goes."""

    org: str
    sandbox_id: str
    actor: str
    exec_id: str = ""
    """Empty where the node's own word for it is not known: calls of E2B's protocol."""


@dataclass
class _Sum:
    begun: asyncio.Task[None]
    bytes: int = 0
    pieces: int = 0


@dataclass
class StdinLog:
    """Of all sandboxes of this server."""

    audit: Audit
    _sums: dict[Source, _Sum] = field(default_factory=dict)

    async def begin(self, source: Source) -> None:
        """Something is about to be passed on. What cannot be recorded raises, and is not to be passed on."""
        known = self._sums.get(source)
        if known is None:
            known = self._sums[source] = _Sum(asyncio.create_task(self._record(source, "begun", {})))
        try:
            await asyncio.shield(known.begun)
        except Exception:
            self._sums.pop(source, None)
            raise

    def add(self, source: Source, size: int) -> None:
        """So much was passed on."""
        known = self._sums.get(source)
        if known is not None and size:
            known.bytes += size
            known.pieces += 1

    async def counted(self, source: Source, data: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The same, recorded."""
        async for piece in data:
            await self.note(source, piece)
            yield piece

    async def note(self, source: Source, data: bytes) -> None:
        """This is about to be passed on."""
        if data:
            await self.begin(source)
            self.add(source, len(data))

    async def watch(self) -> None:
        """Record the sums, for ever."""
        while True:
            await asyncio.sleep(SECONDS)
            try:
                await self.tell()
            except Exception:
                log.exception("what was sent to commands could not be recorded")

    async def tell(self) -> None:
        """Record what was sent since the last time. Who has sent nothing begins anew."""
        for source, known in list(self._sums.items()):
            sent, known.bytes = known.bytes, 0
            pieces, known.pieces = known.pieces, 0
            if sent:
                try:
                    await self._record(source, "sent", {"bytes": sent, "pieces": pieces})
                except BaseException:
                    known.bytes, known.pieces = known.bytes + sent, known.pieces + pieces
                    raise
            elif known.begun.done() and not known.bytes:
                del self._sums[source]

    async def _record(self, source: Source, outcome: str, detail: dict[str, object]) -> None:
        told = ({"exec": source.exec_id} if source.exec_id else {}) | detail
        by = Acting(source.actor)
        await self.audit.record(Event(source.org, "input", source.sandbox_id, outcome, told, by=by))


def source_of(org: str, sandbox_id: str, exec_id: str) -> Source:
    """For input that whoever acts now has sent."""
    return Source(org, sandbox_id, acting_now().actor, exec_id)
