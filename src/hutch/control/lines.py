"""Cuts output into lines, with bounded memory: a line longer than `MAX_LINE` is shortened to its beginning."""

from __future__ import annotations

from dataclasses import dataclass

from hutch.agents.base import MAX_LINE

_HEAD = 8192


@dataclass(frozen=True, slots=True)
class Line:
    """One line without its newline."""

    data: bytes
    truncated: int = 0
    """Bytes that were left out at its end."""


class LineSplitter:
    """One stream. `pending` and `skipped` are all of its state: with them, another one goes on where it stopped."""

    def __init__(self, pending: bytes = b"", skipped: int = 0) -> None:
        self._pending = bytearray(pending)
        self._skipped = skipped

    @property
    def pending(self) -> bytes:
        """The beginning of a line whose end has not come."""
        return bytes(self._pending)

    @property
    def skipped(self) -> int:
        """Bytes of that line which were left out; the line is too long already when there are any."""
        return self._skipped

    def feed(self, data: bytes) -> list[Line]:
        """The lines that `data` completes."""
        *ends, rest = data.split(b"\n")
        lines = []
        for end in ends:
            self._add(end)
            lines.append(self._take())
        self._add(rest)
        return lines

    def finish(self) -> list[Line]:
        """What is left at the end of the stream."""
        return [self._take()] if self._pending or self._skipped else []

    def _add(self, piece: bytes) -> None:
        if self._skipped:
            self._skipped += len(piece)
            return
        self._pending += piece
        if len(self._pending) > MAX_LINE:
            self._skipped = len(self._pending) - _HEAD
            del self._pending[_HEAD:]

    def _take(self) -> Line:
        line = Line(bytes(self._pending), self._skipped)
        self._pending.clear()
        self._skipped = 0
        return line
