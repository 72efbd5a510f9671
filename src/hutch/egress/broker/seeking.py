"""Looks for byte strings in a stream, also where one is cut between two pieces."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from hutch.egress.broker.refusal import Misplaced


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
    """Replaces values by as many other bytes, so that what frames them stays true. `values` may grow."""

    def __init__(self, values: list[bytes]) -> None:
        self._values = values

    @property
    def longest(self) -> int:
        """Length of the longest value, in bytes."""
        return max(map(len, self._values), default=0)

    def whole(self, data: bytes) -> bytes:
        """Of a text that is all there."""
        for value in self._values:
            if value in data:
                data = data.replace(value, (b"[redacted]" + b"*" * len(value))[: len(value)])
        return data

    def name(self, key: bytes) -> bytes:
        """Of a header's name, in which letters have no size, and brackets no place."""
        for value in self._values:
            key = re.sub(re.escape(value), b"x" * len(value), key, flags=re.IGNORECASE)
        return key

    def stream(self) -> MaskedStream:
        """For one body."""
        return MaskedStream(self)


class MaskedStream:
    """A body without values.

    Its last bytes are held back, as many as could be of a value that is not whole yet, **whatever they are**: the
    sandbox may have the host say what it likes, and if only the beginnings of values were treated otherwise than other
    bytes (held back, masked, left out), it could find out a value byte by byte.
    """

    def __init__(self, mask: Mask) -> None:
        self._mask = mask
        self._held = self._shown = b""

    @property
    def holding(self) -> bool:
        """Whether something waits for `release`."""
        return bool(self._held)

    def feed(self, data: bytes) -> bytes:
        """What may be passed on of all that came so far."""
        keep = self._mask.longest - 1
        if keep < 0:
            return data
        text = self._mask.whole(self._shown + self._held + data)
        end = max(len(self._shown), len(text) - keep)
        passed, self._held = text[len(self._shown) : end], text[end:]
        self._shown = text[max(0, end - keep) : end]
        return passed

    def release(self) -> bytes:
        """What was held back, when nothing more comes for now, or at all. Of a value that is cut just there the rest is
        masked all the same."""
        held, self._held = self._held, b""
        self._shown = (self._shown + held)[-self._mask.longest :]
        return held


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
