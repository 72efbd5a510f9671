"""Takes out of a stream of Chat Completions what only the gateway asked for.

`stream_options.include_usage` adds one event without choices before the end, and `"usage": null` to all others. A
client that did not ask for it may look for the first choice of every event, so it does not get to see either.
"""

from __future__ import annotations

import json
import re

_END = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_NULL = re.compile(rb',\s*"usage"\s*:\s*null')
"""Within a text of JSON every quote has a backslash before it, so this is only ever found between fields."""
_MAX_HELD = 1 << 20


class UsageHider:
    """Gives events on when they are whole, which is when a client can use them, without usage."""

    def __init__(self) -> None:
        self._held = b""

    @property
    def held(self) -> int:
        """Bytes of the event that has not ended."""
        return len(self._held)

    def feed(self, chunk: bytes) -> bytes:
        """What may be passed on of all that came so far."""
        data = self._held + chunk
        shown, begin = [], 0
        for end in _END.finditer(data):
            shown.append(_shown(data[begin : end.end()]))
            begin = end.end()
        self._held = data[begin:]
        if len(self._held) > _MAX_HELD:
            shown.append(self.end())
        return b"".join(shown)

    def end(self) -> bytes:
        """What was held back, when nothing more comes."""
        held, self._held = self._held, b""
        return held


def _shown(event: bytes) -> bytes:
    if b'"usage"' not in event:
        return event
    try:
        told = json.loads(b"".join(line[5:] for line in event.splitlines() if line.startswith(b"data:")))
    except (ValueError, RecursionError):
        return event
    if isinstance(told, dict) and told.get("choices") == [] and isinstance(told.get("usage"), dict):
        return b""
    return _NULL.sub(b"", event)
