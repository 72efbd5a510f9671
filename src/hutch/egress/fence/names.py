"""Which names each address had, for one sandbox, and until when that counts."""

from __future__ import annotations

from collections import OrderedDict

MAX_ENTRIES = 2048


class NameTable:
    """Pairs of an address and a name that it was told to have. The oldest go first when there are too many."""

    def __init__(self, most: int = MAX_ENTRIES) -> None:
        self._most = most
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
            if len(self._latest) > self._most:
                del self._latest[next(iter(self._latest))]
        for address in addresses:
            key = (address, name)
            self._until[key] = max(until, self._until.get(key, 0.0))
            self._until.move_to_end(key)
            self._names.setdefault(address, set()).add(name)
        while len(self._until) > self._most:
            self._drop(next(iter(self._until)))

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

    def _drop(self, key: tuple[str, str]) -> None:
        del self._until[key]
        address, name = key
        self._names[address].discard(name)
        if not self._names[address]:
            del self._names[address]
