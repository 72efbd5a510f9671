"""Which names the addresses had that a sandbox was told: what the firewall lets through says no name by itself."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import TypeVar

T = TypeVar("T")

MAX_KEPT = 512
"""Addresses, and names, of one sandbox."""
NEWS_SECONDS = 60.0
"""For so long an answer that comes again is no news."""


class Resolutions:
    """Of one sandbox."""

    def __init__(self) -> None:
        self._names: OrderedDict[str, str] = OrderedDict()
        """By address: the name that it was last told for."""
        self._told: OrderedDict[str, tuple[float, frozenset[str]]] = OrderedDict()

    def note(self, name: str, addresses: list[str]) -> None:
        """The name has these addresses."""
        for address in addresses:
            _put(self._names, address, name)

    def news(self, name: str, addresses: list[str]) -> bool:
        """Whether that was not told just now."""
        now = time.monotonic()
        at, before = self._told.get(name, (-NEWS_SECONDS, frozenset[str]()))
        if now - at < NEWS_SECONDS and before.issuperset(addresses):
            return False
        _put(self._told, name, (now, before.union(addresses) if now - at < NEWS_SECONDS else frozenset(addresses)))
        return True

    def name_of(self, address: str) -> str | None:
        """The name that it was last told for."""
        return self._names.get(address)


def _put(kept: OrderedDict[str, T], key: str, value: T) -> None:
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > MAX_KEPT:
        kept.popitem(last=False)
