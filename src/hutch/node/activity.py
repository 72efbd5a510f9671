"""What goes on in sandboxes, on its way into the audit log: gathered for a second, then written into the journal in few
entries, whatever a guest does. A crash forgets that second."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import structlog

from hutch.errors import HutchError
from hutch.node.journal import Journal

log = structlog.get_logger("hutch.node")

FLUSH_SECONDS = 1.0
BURST, RATE = 1000.0, 20.0
"""Different events of one kind and sandbox that are told in full: at once, and in a second for ever."""
MAX_BRIEF = 20
"""Those beyond that in one flush of which the least is told."""
_LARGEST = 6 << 10
"""Bytes of one entry's events; and how many there are in it. An audit record takes no more."""
_MOST = 60
_SUMMED = ("sent", "received")
_OF_THE_FIRST = (*_SUMMED, "pid", "parent", "time", "seconds", "count")
"""What does not make two events different ones."""

Kind = tuple[str, str]
"""Action and outcome, in the words of the audit log."""


@dataclass
class _Gathered:
    """What is to be told of one kind and sandbox."""

    events: dict[str, dict[str, Any]] = field(default_factory=dict)
    brief: int = 0
    left_out: int = 0
    lost: int = 0
    allowed: float = BURST
    counted: float = field(default_factory=time.monotonic)

    def add(self, event: dict[str, Any], least: tuple[str, ...]) -> None:
        key = _key(event)
        if key not in self.events and not self._in_full():
            event = {name: event[name] for name in (*least, *_OF_THE_FIRST) if name in event}
            key = "brief " + _key(event)
            if key not in self.events:
                if not least or self.brief >= MAX_BRIEF:
                    self.left_out += event.get("count", 1)
                    return
                self.brief += 1
        if (known := self.events.setdefault(key, event)) is not event:
            known["count"] = known.get("count", 1) + event.get("count", 1)
            for name in _SUMMED:
                if name in event:
                    known[name] = known.get(name, 0) + event[name]

    def take(self) -> Iterator[dict[str, Any]]:
        """In portions. What stays is how much may be told."""
        events = list(self.events.values())
        rest = {name: count for name, count in (("left_out", self.left_out), ("lost", self.lost)) if count}
        self.events, self.brief, self.left_out, self.lost = {}, 0, 0, 0
        portions = list(_portions(events)) or [[]]
        yield from ({"events": portion} for portion in portions[:-1])
        if portions[-1] or rest:
            yield {"events": portions[-1]} | rest

    @property
    def idle(self) -> bool:
        """Whether it is as good as a new one."""
        return not (self.events or self.left_out or self.lost) and time.monotonic() - self.counted > BURST / RATE

    def _in_full(self) -> bool:
        now = time.monotonic()
        self.allowed = min(BURST, self.allowed + (now - self.counted) * RATE)
        self.counted = now
        if self.allowed < 1:
            return False
        self.allowed -= 1
        return True


class Activity:
    """Of all sandboxes. Called on the event loop; only `close` waits."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._gathered: dict[tuple[str, Kind], _Gathered] = {}
        self._flusher: asyncio.Task[None] | None = None

    def note(
        self, sandbox: str, kind: Kind, event: dict[str, Any], at: float | None = None, least: tuple[str, ...] = ()
    ) -> None:
        """Something has happened, now or at this Unix time. What is the same within a flush is told once, with a
        count. `least`: the fields that are told when there is too much; without any it is only counted then."""
        moment = datetime.fromtimestamp(at or time.time(), UTC).isoformat(timespec="milliseconds")
        self._of(sandbox, kind).add(event | {"time": moment.replace("+00:00", "Z")}, least)

    def lost(self, sandbox: str, kind: Kind, count: int) -> None:
        """So many of this kind have happened, and nobody knows what."""
        self._of(sandbox, kind).lost += count

    async def close(self) -> None:
        """Write what there is."""
        if self._flusher is not None:
            self._flusher.cancel()
            await asyncio.gather(self._flusher, return_exceptions=True)
        await self._write()

    def _of(self, sandbox: str, kind: Kind) -> _Gathered:
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.create_task(self._flush())
        return self._gathered.setdefault((sandbox, kind), _Gathered())

    async def _flush(self) -> None:
        while self._gathered:
            await asyncio.sleep(FLUSH_SECONDS)
            await asyncio.shield(self._write())

    async def _write(self) -> None:
        told = [
            self._tell(sandbox, kind, gathered, detail)
            for (sandbox, kind), gathered in self._gathered.items()
            for detail in gathered.take()
        ]
        await asyncio.gather(*told)
        self._gathered = {key: gathered for key, gathered in self._gathered.items() if not gathered.idle}

    async def _tell(self, sandbox: str, kind: Kind, gathered: _Gathered, detail: dict[str, Any]) -> None:
        action, outcome = kind
        data = {"action": action, "outcome": outcome, "detail": detail}
        try:
            await self._journal.append(sandbox, "activity", data)
        except HutchError as error:
            log.error("what goes on in a sandbox is not written", sandbox=sandbox, error=str(error))
            gathered.left_out += sum(event.get("count", 1) for event in detail["events"])


def _key(event: dict[str, Any]) -> str:
    return json.dumps({name: value for name, value in event.items() if name not in _OF_THE_FIRST}, sort_keys=True)


def _portions(events: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    portion: list[dict[str, Any]] = []
    size = 0
    for event in events:
        length = len(json.dumps(event))
        if portion and (len(portion) == _MOST or size + length > _LARGEST):
            yield portion
            portion, size = [], 0
        portion.append(event)
        size += length
    if portion:
        yield portion
