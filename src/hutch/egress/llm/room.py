"""Bytes of requests and answers that the gateway holds in memory, for one sandbox and for all of the node."""

from __future__ import annotations

from hutch.egress.llm.refused import Refused

SHARE = 32 << 20
"""What one sandbox may have held, by all its calls."""
ALWAYS = 2 << 20
"""What each may have held however much the others have."""
TOTAL = 512 << 20
"""What all together may have beyond that."""


class Room:
    """Of one node."""

    def __init__(self) -> None:
        self._held: dict[str, int] = {}
        self._beyond = 0

    def held(self, sandbox: str) -> int:
        """Bytes held for a sandbox."""
        return self._held.get(sandbox, 0)

    def allows(self, sandbox: str, more: int) -> bool:
        """Whether so much more may be held for it."""
        before, after = self.held(sandbox), self.held(sandbox) + more
        return after <= ALWAYS or (after <= SHARE and self._beyond + _beyond(after) - _beyond(before) <= TOTAL)

    def change(self, sandbox: str, by: int) -> None:
        """So much more is held, or less."""
        before, after = self.held(sandbox), self.held(sandbox) + by
        self._beyond += _beyond(after) - _beyond(before)
        self._held[sandbox] = after
        if not after:
            del self._held[sandbox]


class Held:
    """What is held for one call."""

    def __init__(self, room: Room, sandbox: str) -> None:
        self._room = room
        self._sandbox = sandbox
        self.size = 0
        """Bytes."""

    def ask(self, size: int) -> None:
        """Holds so much. Raises `Refused` where there is no room for it."""
        if size > self.size and not self._room.allows(self._sandbox, size - self.size):
            raise Refused(429, "The node holds too much of this sandbox's model calls. Try again in a moment.")
        self.be(size)

    def be(self, size: int) -> None:
        """Holds so much: of an answer, which is bounded and cannot be put off, so that others find less room."""
        if size != self.size:
            self._room.change(self._sandbox, size - self.size)
            self.size = size


def _beyond(size: int) -> int:
    return max(0, size - ALWAYS)
