"""Connections that the firewall lets pass by themselves: what was told at their first packet, until they end."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from hutch.network.ended import Place

MAX_OPEN = 1024
"""Of one address."""
LATER = 0.5
"""Seconds after which the firewall has told of a connection's first packet: it does so ten times a second, and some
connections are over sooner."""

T = TypeVar("T")


@dataclass(frozen=True)
class Begun:
    """One of them. The address may be another sandbox's by the time it ends."""

    sandbox: str
    at: float
    entry: dict[str, Any]


class Passing:
    """Those that are open, as far as is known: the firewall does not tell of each, and a new daemon knows of none."""

    def __init__(self) -> None:
        self._open: dict[str, OrderedDict[Place, Begun]] = {}

    def began(self, place: Place, begun: Begun) -> None:
        """Its first packet. A first packet that is sent again is the same connection's."""
        of_one = self._open.setdefault(place.source, OrderedDict())
        known = of_one.get(place)
        if known is None or known.sandbox != begun.sandbox:
            of_one[place] = begun
        if len(of_one) > MAX_OPEN:
            of_one.popitem(last=False)

    def ended(self, place: Place) -> Begun | None:
        """What was told of it, which is forgotten."""
        of_one = self._open.get(place.source, OrderedDict())
        known = of_one.pop(place, None)
        if not of_one:
            self._open.pop(place.source, None)
        return known


class Later(Generic[T]):
    """What comes is given on in its order, some moments later."""

    def __init__(self, give: Callable[[T], None]) -> None:
        self._give = give
        self._held: deque[tuple[float, T]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, what: T) -> None:
        loop = asyncio.get_running_loop()
        self._held.append((loop.time() + LATER, what))
        if self._timer is None:
            self._timer = loop.call_later(LATER, self._due)

    def flush(self) -> None:
        """Give on all that is held, now."""
        while self._held:
            self._give(self._held.popleft()[1])

    def _due(self) -> None:
        loop = asyncio.get_running_loop()
        while self._held and self._held[0][0] <= loop.time():
            self._give(self._held.popleft()[1])
        self._timer = loop.call_at(self._held[0][0], self._due) if self._held else None
