"""Server-sent events, read as the bytes come, in bounded memory."""

from __future__ import annotations

_MAX_DATA = 1 << 20
_TAIL = 64 << 10


class SseReader:
    """Turns chunks, however they are cut, into the `data` of each event.

    Of an event longer than a mebibyte only its last 64 KiB are given, with `cut` set: OpenAI's last event repeats the
    whole answer, and its usage stands near the end.
    """

    def __init__(self) -> None:
        self._line = bytearray()
        self._data = bytearray()
        self._cut = False
        self._after_cr = False

    @property
    def held(self) -> int:
        """Bytes of the event that has not ended."""
        return len(self._line) + len(self._data)

    def feed(self, chunk: bytes) -> list[tuple[bytes, bool]]:
        """The events that `chunk` completes, as (data, cut)."""
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
        self._after_cr = chunk.endswith(b"\r")
        events: list[tuple[bytes, bool]] = []
        # bytes.splitlines knows \n, \r and \r\n, which is just what the format allows
        for piece in chunk.splitlines(keepends=True):
            whole = piece[-1:] in (b"\n", b"\r")
            self._line += piece.rstrip(b"\r\n") if whole else piece
            self._shorten(self._line)
            if whole:
                self._end_line(events)
        return events

    def _end_line(self, events: list[tuple[bytes, bool]]) -> None:
        line, self._line = self._line, bytearray()
        if not line:
            if self._data:
                events.append((bytes(self._data), self._cut))
            self._data, self._cut = bytearray(), False
        elif line.startswith(b"data:") or self._cut:
            value = line if self._cut else line[5:].removeprefix(b" ")
            self._data += b"\n" + value if self._data else value
            self._shorten(self._data)

    def _shorten(self, buffer: bytearray) -> None:
        if len(buffer) > _MAX_DATA:
            del buffer[:-_TAIL]
            self._cut = True
