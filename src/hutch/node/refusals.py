"""What a sandbox was refused, as news to whoever runs a task in it: each place once, and of many how many more."""

from __future__ import annotations

import asyncio
from typing import Any
from weakref import WeakKeyDictionary

import structlog

from hutch.errors import HutchError
from hutch.model.egress import EgressEntry
from hutch.node.entry import Entry
from hutch.node.journal import Journal

log = structlog.get_logger("hutch.node")

MAX_NEWS = 100
"""Different refusals of one sandbox that are told one by one."""
FIRST, LONGEST = 10.0, 3600.0
"""Seconds after which is told how many more there were: the first time, and at most. Each time it is twice as long."""
_MAX_TARGETS = 1000
"""That are told apart."""


class _Told:
    """Of one sandbox."""

    def __init__(self) -> None:
        self.places: set[str] = set()
        self.more = 0
        self.targets: set[str] = set()
        self.pause = FIRST
        self.timer: asyncio.TimerHandle | None = None


class Refusals:
    """Called on the event loop; nothing here waits."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._of: WeakKeyDictionary[Entry, _Told] = WeakKeyDictionary()
        self._telling: set[asyncio.Task[None]] = set()

    def add(self, found: Entry, entry: dict[str, Any]) -> None:
        """One more, or as many as its `count` says."""
        told = self._of.setdefault(found, _Told())
        target = entry.get("name") or entry.get("address")
        place = f"{target}:{entry.get('port')}"
        if entry["kind"] == "secret":  # each as often as it is another
            place += f" {entry.get('secret')} {entry.get('reason')}"
        if target is not None and place in told.places:
            return
        if target is not None and len(told.places) < MAX_NEWS:
            told.places.add(place)
            self._append(found.id, _news(entry))
            return
        told.more += entry.get("count", 1)
        if target is not None and len(told.targets) < _MAX_TARGETS:
            told.targets.add(target)
        if told.timer is None:
            told.timer = asyncio.get_running_loop().call_later(told.pause, self._tell_more, found, told)

    def forget(self, found: Entry) -> None:
        """It does not run any more: what it is refused from now on is news again."""
        if (told := self._of.pop(found, None)) is not None and told.timer is not None:
            told.timer.cancel()
            self._tell_more(found, told)

    async def stop(self) -> None:
        """Tell what is to be told; nothing more comes."""
        for found in list(self._of):
            self.forget(found)
        await asyncio.gather(*self._telling, return_exceptions=True)

    def _tell_more(self, found: Entry, told: _Told) -> None:
        self._append(found.id, _more(told.more, len(told.targets)))
        told.more, told.timer = 0, None
        told.targets.clear()
        told.pause = min(2 * told.pause, LONGEST)

    def _append(self, sandbox: str, news: dict[str, Any]) -> None:
        task = asyncio.create_task(self._tell(sandbox, news))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _tell(self, sandbox: str, news: dict[str, Any]) -> None:
        try:
            await self._journal.append(sandbox, "egress_refused", news)
        except HutchError as error:
            log.error("a refusal is not told", sandbox=sandbox, error=str(error))


def _news(entry: dict[str, Any]) -> dict[str, Any]:
    names = ("kind", "name", "address", "port", "reason", "protocol", "secret", "process")
    told = {name: entry[name] for name in names if entry.get(name) is not None}
    whole = EgressEntry.model_validate({"seq": 0, "time": 0, "allowed": False} | told)
    return told | {"message": whole.message}


def _more(count: int, targets: int) -> dict[str, Any]:
    least = "at least " if targets >= _MAX_TARGETS else ""
    of = f" of {least}{targets:,} {'place' if targets == 1 else 'places'}" if targets else ""
    message = f"blocked: {count:,} more{of}; the egress log has the newest"
    return {"kind": "connection", "reason": "more than can be told", "count": count, "message": message}
