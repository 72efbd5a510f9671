"""What is told of sandboxes: as much of each as whoever hears it can take of all, the rest as a number."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from hutch.egress.fence.bucket import Bucket

RATE = (20.0, 500.0)
"""Entries of one sandbox that are told whole, a second and in a burst: the node needs some 0.2 ms for each."""
UNTOLD = "more than can be listed"
_MAX_SANDBOXES = 4096
"""Whose pace is remembered."""
EVERY = 2.0
"""Seconds between two tellings of what was only counted."""


class Reports:
    """`send` takes an entry, `full` says whether the node is behind with what it was sent."""

    def __init__(
        self,
        send: Callable[[dict[str, Any]], None],
        full: Callable[[], bool] = lambda: False,
        rate: tuple[float, float] = RATE,
        every: float = EVERY,
    ) -> None:
        self._send, self._full, self._rate, self._every = send, full, rate, every
        self._paces: OrderedDict[str, Bucket] = OrderedDict()
        self._untold: dict[tuple[str, str, bool], dict[str, Any]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, entry: dict[str, Any]) -> None:
        """Tell it whole, or count it."""
        if not self._full() and self._pace(entry["sandbox"]).take(asyncio.get_running_loop().time()):
            self._send(entry)
            return
        what = {name: entry[name] for name in ("sandbox", "kind", "allowed")}
        counted = self._untold.setdefault(tuple(what.values()), what | {"reason": UNTOLD, "count": 0})
        counted["count"] += entry.get("count", 1)
        for name in ("sent", "received"):
            if name in entry:
                counted[name] = counted.get(name, 0) + entry[name]
        self._wait()

    def _pace(self, sandbox: str) -> Bucket:
        pace = self._paces.setdefault(sandbox, Bucket(*self._rate))
        self._paces.move_to_end(sandbox)
        if len(self._paces) > _MAX_SANDBOXES:
            self._paces.popitem(last=False)
        return pace

    def _wait(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._every, self._due)

    def _due(self) -> None:
        self._timer = None
        if self._full():
            self._wait()
        else:
            self.flush()

    def flush(self) -> None:
        """Tell now what was only counted."""
        untold, self._untold = self._untold, {}
        for entry in untold.values():
            self._send(entry)
