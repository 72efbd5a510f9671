"""Looks for byte strings in a stream, also where one is cut between two pieces."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hutch.egress.broker.refusal import Misplaced

_MUCH = 8
"""Bytes of a value's beginning at the end of a body that are not shown either."""


class Seeker:
    """Only an end that could be the beginning of one of the strings is held back; all else passes at once."""

    def __init__(self, needles: list[bytes], treat: Callable[[bytes], bytes]) -> None:
        self._needles = needles
        self._treat = treat
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """What may be passed on of all that came so far."""
        data = self._treat(self._held + data)
        held = max((_overlap(data, needle) for needle in self._needles), default=0)
        self._held = data[len(data) - held :]
        return data[: len(data) - held]

    def end(self) -> bytes:
        """What was held back, when nothing more comes."""
        held, self._held = self._held, b""
        return held


class Mask:
    """Replaces values by as many other bytes, so that what frames them stays true."""

    def __init__(self, values: list[bytes]) -> None:
        self._values = values

    def whole(self, data: bytes) -> bytes:
        """Of a text that is all there."""
        for value in self._values:
            if value in data:
                data = data.replace(value, (b"[redacted]" + b"*" * len(value))[: len(value)])
        return data

    def stream(self) -> MaskedStream:
        """For one body."""
        return MaskedStream(self._values, self.whole)


class MaskedStream(Seeker):
    """A body without values."""

    def end(self) -> bytes:
        held = super().end()
        return b"*" * len(held) if len(held) >= _MUCH else held


def watch(placeholders: Mapping[bytes, str], where: str) -> Seeker:
    """A stream in which no placeholder may be. `feed` raises `Misplaced` before any of it has passed."""

    def treat(data: bytes) -> bytes:
        for placeholder, name in placeholders.items():
            if placeholder in data:
                raise Misplaced(name, where)
        return data

    return Seeker(list(placeholders), treat)


def _overlap(data: bytes, needle: bytes) -> int:
    """Length of the longest end of `data` that is a beginning of the needle, and not all of it."""
    if not data or data[-1] not in needle:
        return 0
    longest = min(len(needle) - 1, len(data))
    return next((size for size in range(longest, 0, -1) if data.endswith(needle[:size])), 0)
