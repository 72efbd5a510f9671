"""JSON of any length that comes in pieces, kept as an outline: without its long texts and its long rows of numbers."""

from __future__ import annotations

import re

_SHORT = 600
"""No text that is kept as it is takes more bytes."""
_KEPT = 96
"""So many of a longer one are kept, and three dots."""
TAIL = 64 << 10

# Only sets are possessive: Python before 3.11.5 forgets to go back where a possessive group fails in its middle.
_RUN = re.compile(rb'(?:[^"]++|"[^"\\]{0,256}+(?:\\.[^"\\]{0,64}+){0,4}")*', re.DOTALL)
"""Anything up to the next long text, or the next that is cut. Short ones are passed by here, as there may be many."""
_TEXT = re.compile(rb'(?:[^"\\]++|\\.)*', re.DOTALL)
_WHOLE_SIGNS = re.compile(rb'(?:[^"\\]|\\u[0-9A-Fa-f]{4}|\\[^u])*')
_ROW = re.compile(rb"-?\d[\d.eE+\-,\s]{64,}\d")
_NUMBERS = b"0123456789.eE+-, \t\r\n"
_BLANKS = re.compile(rb"\s{2,}")


class Outline:
    """Takes the pieces, however they are cut. Blanks that follow each other are one; for a long text stands its
    beginning, for a long row of numbers one `null`. Of an outline longer than `limit` only its last 64 KiB are kept,
    with `cut` set."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept = bytearray()
        self._open = b""
        """The end of what came, which may be the beginning of something to be left out."""
        self._in_text = False
        self._escaped = False
        self.cut = False

    @property
    def held(self) -> int:
        """Bytes that it takes."""
        return len(self._kept) + len(self._open)

    def feed(self, piece: bytes) -> None:
        """Takes the next piece."""
        data, self._open = self._open + piece, b""
        at = 0
        while at < len(data):
            at = self._through_text(data, at) if self._in_text else self._to_text(data, at)
        if len(self._kept) > self._limit:
            del self._kept[:-TAIL]
            self.cut = True

    def end(self) -> bytes:
        """The outline, when nothing more comes."""
        return bytes(self._kept + _shortened(self._open))

    def _to_text(self, data: bytes, at: int) -> int:
        """Keeps what comes before the next long text, and its beginning."""
        found = _RUN.match(data, at)
        end = found.end() if found is not None else at
        if end == len(data):
            stem = data[at:end].rstrip(_NUMBERS)
            self._kept += _shortened(stem)
            self._open = _open_row(data[at + len(stem) : end])
            return end
        self._kept += _shortened(data[at:end])
        text = _TEXT.match(data, end + 1)
        close = text.end() if text is not None else end + 1
        if data[close : close + 1] == b'"' and close - end <= _SHORT:
            self._kept += data[end : close + 1]
            return close + 1
        if len(data) - end <= _SHORT:
            self._open = data[end:]
            return len(data)
        signs = _WHOLE_SIGNS.match(data, end + 1, end + 1 + _KEPT)
        begin = signs.group().decode("utf-8", "ignore").encode() if signs is not None else b""
        self._kept += b'"' + begin + b'..."'
        self._in_text = True
        return end + 1

    def _through_text(self, data: bytes, at: int) -> int:
        """Leaves out a text up to its end."""
        if self._escaped:
            self._escaped = False
            return at + 1
        quote = data.find(b'"', at)
        end = quote if quote >= 0 else len(data)
        if data.find(b"\\", at, end) >= 0 and (found := _TEXT.match(data, at)) is not None:
            end = found.end()
        self._escaped = data[end : end + 1] == b"\\"  # the last byte of the piece
        self._in_text = data[end : end + 1] != b'"'
        return end + 1


def _open_row(row: bytes) -> bytes:
    """The end of a piece in a row of numbers, which may go on: a row that says no less, and is shorter."""
    row = _BLANKS.sub(b" ", row)
    if len(row) <= _SHORT:
        return row
    bare = row.strip()
    return b","[: bare.startswith(b",")] + b"0," * 40 + b"0" + b","[: bare.endswith(b",")]


def _shortened(run: bytes) -> bytes:
    return _BLANKS.sub(b" ", _ROW.sub(b"null", run))
