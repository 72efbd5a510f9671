"""A sandbox in the daemon's memory, and the registry of all of them."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterator
from typing import Literal

from hutch.errors import SandboxNotFound
from hutch.model import LlmUsage, NodeSandbox
from hutch.node.records import Figures, SandboxRecord, Step
from hutch.runtime.base import Handle, Stats

_REMEMBERED = 10_000

State = Literal["booting", "running", "paused", "hibernated", "dead"]
_STATES: dict[Step, State] = {
    "booting": "booting",
    "running": "running",
    "pausing": "running",
    "paused": "paused",
    "resuming": "paused",
    "ending": "dead",
    "dead": "dead",
}
"""What the API shows of each step: what it was until the step is done."""


class Entry:
    """The record, and what lives only as long as the daemon."""

    def __init__(self, record: SandboxRecord) -> None:
        self.record = record
        self.handle: Handle | None = None
        self.lock = asyncio.Lock()
        """Held by whoever changes the sandbox's state, after its boot."""
        self.doomed = asyncio.Event()
        """Set when it is to be deleted: its boot gives up at the next step."""
        self.boot: asyncio.Task[None] | None = None
        self.watch: asyncio.Task[None] | None = None

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def running(self) -> bool:
        return self.record.step == "running"

    @property
    def paused(self) -> bool:
        return self.record.step == "paused"

    @property
    def _state(self) -> State:
        state = _STATES[self.record.step]
        return "hibernated" if state == "paused" and self.record.hibernated else state

    def saw(self, stats: Stats) -> None:
        """Note fresh figures. Those that only rise never fall, whatever the host still knows after a death."""
        old = self.record.figures
        figures = Figures(
            cpu_seconds=max(old.cpu_seconds, self.record.cpu_before + stats.cpu_seconds),
            memory_bytes=stats.memory_bytes,
            memory_peak_bytes=max(old.memory_peak_bytes, stats.memory_peak_bytes, stats.memory_bytes),
            disk_bytes=stats.disk_bytes,
        )
        self.record = self.record.but(figures=figures)

    def view(self, llm: LlmUsage | None = None) -> NodeSandbox:
        """The sandbox as the API shows it; `llm` is its usage where that is newer than the record's."""
        record = self.record
        return NodeSandbox(
            id=record.id,
            state=self._state,
            template=record.template,
            address=record.address,
            guest_token=record.guest_token,
            user=record.user,
            workdir=record.workdir,
            started_at=record.started_at,
            deadline=record.deadline,
            boot_ms=record.boot_ms,
            start=record.start,
            start_reason=record.start_reason,
            resumed_ms=record.resumed_ms,
            resumed_memory=record.resumed_memory,
            since=record.since,
            snapshot=record.snapshot if record.step == "paused" else None,
            boot_id=record.boot_id,
            **record.figures.model_dump(),
            llm=llm or record.llm,
            breaches=record.breaches,
            death=record.death,
        )


class Registry:
    """All sandboxes the node knows: booting, running, and the tombstones of the dead."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._running_as: dict[str, Entry] = {}
        self._deleted: OrderedDict[str, None] = OrderedDict()

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self._entries.values()))

    def find(self, id: str) -> Entry | None:
        """The sandbox, when it is known."""
        return self._entries.get(id)

    def get(self, id: str) -> Entry:
        """The sandbox. Raises `SandboxNotFound`."""
        entry = self._entries.get(id)
        if entry is None:
            raise SandboxNotFound(f"no sandbox {id[:64]} on this node")
        return entry

    def add(self, entry: Entry) -> None:
        """Take a new one in."""
        self._entries[entry.id] = entry

    def remove(self, entry: Entry) -> None:
        """Forget it; no error when it is forgotten already."""
        if self._entries.get(entry.id) is entry:
            del self._entries[entry.id]
        self._running_as = {id: other for id, other in self._running_as.items() if other is not entry}

    def alive(self) -> int:
        """How many are on the host, or on their way there or away."""
        return sum(entry.record.step not in ("dead", "paused") for entry in self._entries.values())

    def paused(self) -> int:
        """How many are paused."""
        return sum(entry.record.step == "paused" for entry in self._entries.values())

    def address(self, id: str) -> str | None:
        """Where a running sandbox is; None for any other id."""
        entry = self._entries.get(id)
        return entry.record.address if entry is not None and entry.running else None

    def at(self, address: str) -> Entry | None:
        """The sandbox that has this address now: the dead keep theirs in their records."""
        has = (
            each for each in self._entries.values() if each.record.address == address and each.record.slot is not None
        )
        return next(has, None)

    def running_as(self, runtime_id: str) -> Entry | None:
        """Whose sandbox it is that the runtime knows by this id; None while it is nobody's."""
        known = self._running_as.get(runtime_id)
        if known is None or known.record.runtime_id != runtime_id:
            has = (each for each in self._entries.values() if each.record.runtime_id == runtime_id)
            known = next((each for each in has if not each.record.hidden), None)
            if known is not None:
                self._running_as[runtime_id] = known
        return known

    def mark_deleted(self, id: str) -> None:
        """Remember that it was deleted, so that a request to boot it that comes late is refused."""
        self._deleted[id] = None
        self._deleted.move_to_end(id)
        while len(self._deleted) > _REMEMBERED:
            self._deleted.popitem(last=False)

    def was_deleted(self, id: str) -> bool:
        """Whether a deletion of this id was asked for lately."""
        return id in self._deleted
