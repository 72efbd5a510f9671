"""What is needed to reach a guest, kept in memory: it does not change while the sandbox runs. And who uses it now."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from hutch.fleet import GuestClient

_KEPT = 4096


@dataclass(frozen=True)
class Known:
    """The guest of a sandbox of this org."""

    org: str
    guest: GuestClient


class KnownGuests:
    """Of this process."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, Known] = OrderedDict()
        self._forgotten = 0
        self._in_use: Counter[str] = Counter()
        self._last_used: dict[str, float] = {}

    @property
    def age(self) -> int:
        """Take it before the database is read for a guest, and give it with what was read."""
        return self._forgotten

    def get(self, sandbox_id: str, org: str) -> GuestClient | None:
        """The guest, if it is known, and of this org."""
        known = self._known.get(sandbox_id)
        return known.guest if known is not None and known.org == org else None

    def put(self, sandbox_id: str, known: Known, age: int) -> None:
        """Remember it, unless anything was forgotten since `age`: it may be what was read before that."""
        if age != self._forgotten:
            return
        self._known[sandbox_id] = known
        if len(self._known) > _KEPT:
            self._known.popitem(last=False)

    def forget(self, sandbox_id: str) -> None:
        """It is not reached in this way any more."""
        self._forgotten += 1
        self._known.pop(sandbox_id, None)

    @contextmanager
    def using(self, sandbox_id: str) -> Iterator[None]:
        """Around a call to the guest on somebody's behalf, from before it is looked for."""
        self._in_use[sandbox_id] += 1
        try:
            yield
        finally:
            self._in_use[sandbox_id] -= 1
            if not self._in_use[sandbox_id]:
                del self._in_use[sandbox_id]

    def touch(self, sandbox_id: str) -> None:
        """Somebody has just used it."""
        self._last_used[sandbox_id] = time.time()

    def in_use(self, sandbox_id: str) -> bool:
        """Whether a call to it is under way."""
        return sandbox_id in self._in_use

    def last_used(self, sandbox_id: str) -> float | None:
        """When it was used last by this process (Unix seconds)."""
        return self._last_used.get(sandbox_id)

    def keep_only(self, sandbox_ids: set[str], before: float) -> None:
        """Forget when the others were used, if that was before (Unix seconds): nobody will ask. Later uses may be of
        sandboxes that were not there yet when the caller looked."""
        for gone in self._last_used.keys() - sandbox_ids:
            if self._last_used[gone] < before:
                del self._last_used[gone]
