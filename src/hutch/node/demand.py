"""How many sandboxes of each template should wait in the warm pool: by recent demand, within what there is room for."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

BURST = 10.0
"""Seconds: as many as were asked for within so short a time may be again, before the pool is full again."""
RECENT = 300.0
"""Seconds for which a burst counts."""
FADES = 900.0
"""Seconds after the last demand in which one is still kept."""
_REMEMBERED = 512


class Demand:
    """When sandboxes of one template were asked for. Times are `time.monotonic()`."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=_REMEMBERED)

    @property
    def last(self) -> float:
        """The last time; minus infinity when there was none."""
        return self._times[-1] if self._times else float("-inf")

    def note(self, now: float) -> None:
        """One is asked for."""
        self._times.append(now)

    def target(self, now: float) -> int:
        """How many should wait: the largest burst of late; one, while there has been any demand of late; else none."""
        if now - self.last > FADES:
            return 0
        recent = [time for time in self._times if now - time <= RECENT]
        peak = start = 0
        for end, time in enumerate(recent):
            while time - recent[start] > BURST:
                start += 1
            peak = max(peak, end - start + 1)
        return max(1, peak)


@dataclass(frozen=True)
class Wish:
    """What one template would have."""

    template: str
    target: int
    bytes_each: int


def allot(wishes: Sequence[Wish], room_bytes: int, room: int) -> dict[str, int]:
    """How many each may have, of `room` in all that take at most `room_bytes` together. One goes round after the other
    until nobody wants more, or nothing fits: `wishes` begins with who comes first."""
    given = {wish.template: 0 for wish in wishes}
    hungry = list(wishes)
    while hungry:
        fed = []
        for wish in hungry:
            if given[wish.template] < wish.target and room > 0 and wish.bytes_each <= room_bytes:
                given[wish.template] += 1
                room_bytes -= wish.bytes_each
                room -= 1
                fed.append(wish)
        hungry = fed
    return given
