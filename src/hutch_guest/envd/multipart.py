"""multipart/form-data as it comes off the wire, a part after the other, never whole in memory."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable

from hutch_guest.errors import InvalidRequest

_BOUNDARY = re.compile(r'boundary=(?:"([^"]{1,200})"|([^;\s"]{1,200}))', re.IGNORECASE)
_PARAMETER = re.compile(r'[;\s](name|filename)="([^"]*)"', re.IGNORECASE)
_MAX_HEAD = 16 * 1024

Read = Callable[[], Awaitable[bytes]]


def boundary_of(content_type: str) -> bytes:
    """The boundary that a content type names."""
    match = _BOUNDARY.search(content_type)
    if match is None:
        raise InvalidRequest("multipart body without a boundary")
    return (match[1] or match[2]).encode("latin-1", "replace")


class Multipart:
    """Reads the parts. Each part's content is to be read before the next one is asked for."""

    def __init__(self, read: Read, boundary: bytes) -> None:
        self._read = read
        self._delimiter = b"\r\n--" + boundary
        self._buffer = b"\r\n"
        self._inside = True

    async def _more(self) -> None:
        data = await self._read()
        if not data:
            raise InvalidRequest("the multipart body ends in the middle")
        self._buffer += data

    async def next_part(self) -> dict[str, str] | None:
        """`name` and `filename` of the next part, exactly as sent; None after the last."""
        async for _ in self.content():
            pass
        while len(self._buffer) < 2:
            await self._more()
        if self._buffer[:2] == b"--":
            return None
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if len(self._buffer) > _MAX_HEAD:
                raise InvalidRequest("a part's header is too long")
            await self._more()
        head = self._buffer[:end].decode("utf-8", "surrogateescape")
        self._buffer = self._buffer[end + 4 :]
        self._inside = True
        for line in head.split("\r\n"):
            if line.lower().startswith("content-disposition:"):
                return {match[1].lower(): match[2] for match in _PARAMETER.finditer(line)}
        return {}

    async def content(self) -> AsyncIterator[memoryview]:
        """What is left of the current part."""
        while self._inside:
            whole = self._buffer
            at = whole.find(self._delimiter)
            if at >= 0:
                self._buffer = whole[at + len(self._delimiter) :]
                self._inside = False
                if at:
                    yield memoryview(whole)[:at]
                return
            safe = len(whole) - len(self._delimiter)
            if safe > 0:
                self._buffer = whole[safe:]
                yield memoryview(whole)[:safe]
            await self._more()
