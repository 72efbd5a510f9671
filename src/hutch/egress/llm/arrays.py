"""A JSON array that comes in pieces, read element by element, in bounded memory."""

from __future__ import annotations

import re

_MAX_ELEMENT = 1 << 20
_TAIL = 64 << 10
_MARKS = re.compile(rb'[{}"\\]')


class ArrayReader:
    """Turns chunks, however they are cut, into the objects of the outermost array. Of an object longer than a mebibyte
    only its last 64 KiB are given, with `cut` set, as `SseReader` does."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._depth = 0
        self._in_text = False
        self._escaped_at = -1
        self._cut = False
        self.begun = False
        """The first object has come."""

    @property
    def held(self) -> int:
        """Bytes of the object that has not ended."""
        return len(self._held)

    @property
    def between(self) -> bool:
        """Whether it stands between two objects."""
        return self._depth == 0

    def feed(self, chunk: bytes) -> list[tuple[bytes, bool]]:
        """The objects that `chunk` completes, as (data, cut)."""
        found: list[tuple[bytes, bool]] = []
        begin = 0
        escaped_at, self._escaped_at = self._escaped_at, -1
        for mark in _MARKS.finditer(chunk):
            at, sign = mark.start(), mark.group()
            if at == escaped_at:
                continue
            if self._in_text:
                if sign == b"\\":
                    escaped_at = at + 1
                elif sign == b'"':
                    self._in_text = False
            elif sign == b'"':
                self._in_text = True
            elif sign == b"{":
                begin = at if self._depth == 0 else begin
                self._depth += 1
                self.begun = True
            elif sign == b"}" and self._depth:
                self._depth -= 1
                if self._depth == 0:
                    self._keep(chunk[begin : at + 1])
                    found.append((bytes(self._held), self._cut))
                    self._held, self._cut = bytearray(), False
        if escaped_at == len(chunk):
            self._escaped_at = 0
        if self._depth:
            self._keep(chunk[begin:])
        return found

    def _keep(self, piece: bytes) -> None:
        self._held += piece
        if len(self._held) > _MAX_ELEMENT:
            del self._held[:-_TAIL]
            self._cut = True
