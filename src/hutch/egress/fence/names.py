"""Which names each address had, for one sandbox, and until when that counts."""

from __future__ import annotations

from collections import OrderedDict

from hutch.shares import Shares

MAX_ENTRIES = 2048
"""Of one sandbox."""


class NameTable:
    """Pairs of an address and a name that it was told to have. The oldest go first when there are too many."""

    def __init__(self, owner: str, room: Shares) -> None:
        self._owner, self._room = owner, room
        self._until: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._names: dict[str, set[str]] = {}
        self._latest: dict[str, float] = {}
        """Until when each name has any."""

    def __len__(self) -> int:
        return len(self._until)

    def add(self, name: str, addresses: list[str], until: float) -> None:
        """The name has these addresses until then, by the event loop's clock."""
        if addresses:
            self._latest[name] = max(until, self._latest.pop(name, 0.0))
            if len(self._latest) > MAX_ENTRIES:
                del self._latest[next(iter(self._latest))]
        for address in addresses:
            key = (address, name)
            if key not in self._until and not self._make_room():
                break
            self._until[key] = max(until, self._until.get(key, 0.0))
            self._until.move_to_end(key)
            self._names.setdefault(address, set()).add(name)

    def knows(self, name: str, address: str, now: float) -> bool:
        """Whether the name has this address now."""
        return self._until.get((address, name), 0.0) > now

    def has(self, name: str, now: float) -> bool:
        """Whether the name has any address now."""
        return self._latest.get(name, 0.0) > now

    def at(self, address: str, now: float) -> list[str]:
        """The names that this address has now."""
        return sorted(name for name in self._names.get(address, ()) if self.knows(name, address, now))

    def sweep(self, now: float) -> None:
        """Forget what does not count any more."""
        for key in [key for key, until in self._until.items() if until <= now]:
            self._drop(key)
        for name in [name for name, until in self._latest.items() if until <= now]:
            del self._latest[name]

    def clear(self) -> None:
        """Forget all."""
        self._latest.clear()
        for key in list(self._until):
            self._drop(key)

    def _make_room(self) -> bool:
        """For one more."""
        while not self._room.take(self._owner):
            if not self._until:
                return False
            self._drop(next(iter(self._until)))
        return True

    def _drop(self, key: tuple[str, str]) -> None:
        del self._until[key]
        self._room.give(self._owner)
        address, name = key
        self._names[address].discard(name)
        if not self._names[address]:
            del self._names[address]
