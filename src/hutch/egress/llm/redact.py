"""Takes a key out of what a provider says."""

from __future__ import annotations

import re

MARK = b"[redacted]"
_KEY_LIKE = re.compile(rb"\bsk-[A-Za-z0-9_*.-]{6,}")


class Redactor:
    """Replaces a key in a stream, also where the key is cut between two chunks.

    Only an end that could be the key's beginning is held back, so ordinary text passes without delay. (By that nobody
    finds out anything of the key: the end of a chunk is the provider's, of its JSON or of an event.) An answer that
    ends with a part of the key is passed on as it is: what is masked there would say how much of a guess is right.
    """

    def __init__(self, key: str) -> None:
        self._key = key.encode()
        self._held = b""

    def feed(self, chunk: bytes) -> bytes:
        """What may be passed on of all that came so far."""
        if not self._key:
            return chunk
        data = (self._held + chunk).replace(self._key, MARK)
        held = self._overlap(data)
        self._held = data[len(data) - held :]
        return data[: len(data) - held]

    def end(self) -> bytes:
        """What was held back, when nothing more comes."""
        held, self._held = self._held, b""
        return held

    def _overlap(self, data: bytes) -> int:
        """Length of the longest end of `data` that is a beginning of the key."""
        if not data or data[-1] not in self._key:
            return 0
        longest = min(len(self._key) - 1, len(data))
        return next((size for size in range(longest, 0, -1) if data.endswith(self._key[:size])), 0)


def redact(text: bytes, key: str) -> bytes:
    """A whole error body without the key, nor anything that looks like a part of one: OpenAI's error for a wrong
    key quotes its first and last characters."""
    redactor = Redactor(key)
    return _KEY_LIKE.sub(MARK, redactor.feed(text) + redactor.end())
