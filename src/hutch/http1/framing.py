"""Where a body ends. The bytes pass as they are; these only count them."""

from __future__ import annotations

import re
from typing import Protocol

from hutch.http1.heads import BadHead

_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[\t -~\x80-\xff]{0,256})?")
_MAX_LINE = 512
_MAX_TRAILERS = 16 << 10


class Framing(Protocol):
    """Counts the bytes of one body."""

    done: bool

    def take(self, data: bytes) -> int:
        """How many of these bytes are of the body. Raises `BadHead`."""


class Sized:
    """A body of announced length."""

    def __init__(self, length: int) -> None:
        self._left = length
        self.done = length == 0

    def take(self, data: bytes) -> int:
        taken = min(len(data), self._left)
        self._left -= taken
        self.done = self._left == 0
        return taken


class Endless:
    """A body that ends with its connection."""

    done = False

    def take(self, data: bytes) -> int:
        return len(data)


class Chunked:
    """A body in chunks. Lines must end in CR LF, and nothing may stand where it does not belong."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._left = 0
        """Bytes of the current chunk, with the CR LF after it."""
        self._trailers = 0
        self._in_trailers = False
        self.done = False

    def take(self, data: bytes) -> int:
        at = 0
        while at < len(data) and not self.done:
            at = self._content(data, at) if self._left else self._head(data, at)
        return at

    def _content(self, data: bytes, at: int) -> int:
        taken = min(len(data) - at, self._left)
        if self._left - taken < 2:  # the two bytes after a chunk's content
            for place in range(max(at, at + self._left - 2), at + taken):
                expected = 13 if self._left - (place - at) == 2 else 10
                if data[place] != expected:
                    raise BadHead("a chunk is longer than it says")
        self._left -= taken
        return at + taken

    def _head(self, data: bytes, at: int) -> int:
        end = data.find(b"\n", at)
        stop = len(data) if end < 0 else end + 1
        self._line += data[at:stop]
        if len(self._line) > (_MAX_TRAILERS if self._in_trailers else _MAX_LINE):
            raise BadHead("a line between chunks is too long")
        if end >= 0:
            line, self._line = bytes(self._line), bytearray()
            if not line.endswith(b"\r\n"):
                raise BadHead("a line between chunks does not end in CR LF")
            self._between(line[:-2])
        return stop

    def _between(self, line: bytes) -> None:
        if self._in_trailers:
            self._trailers += len(line)
            if self._trailers > _MAX_TRAILERS:
                raise BadHead("too much after the last chunk")
            self.done = not line
            return
        match = _SIZE_LINE.fullmatch(line)
        if match is None:
            raise BadHead("a chunk does not begin with its size")
        size = int(match[1], 16)
        if size:
            self._left = size + 2
        else:
            self._in_trailers = True


def framing_of(length: int | None, without: int | None = 0) -> Framing:
    """For what `length_of` says; `without`: the length of a body of which nothing is said, None: endless."""
    length = without if length is None else length
    return Endless() if length is None else Chunked() if length < 0 else Sized(length)
