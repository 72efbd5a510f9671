"""A process's output as the API gives it: text where it is text, base64 where it is not."""

from __future__ import annotations

import base64
import codecs
from collections.abc import Iterator
from typing import Literal

from hutch.fleet.frames import Frame, FrameKind
from hutch.fleet.guest import exit_state, limit_breach
from hutch.model import ExecFrame, ExecResult, ExecState

MAX_KEPT = 1 << 20
"""Of each stream, in the answer to a command that was waited for."""

_Stream = Literal["stdout", "stderr", "pty"]
_DATA: dict[FrameKind, _Stream] = {FrameKind.STDOUT: "stdout", FrameKind.STDERR: "stderr", FrameKind.PTY: "pty"}


class FrameReader:
    """Makes `ExecFrame`s. A character that is cut between two frames is put together again, in the second."""

    def __init__(self) -> None:
        self.offset = 0
        self._rests: dict[_Stream, bytes] = {}

    def read(self, frame: Frame) -> Iterator[ExecFrame]:
        """What the API shows of a frame."""
        self.offset = frame.offset
        if frame.kind in _DATA:
            yield from self._data(_DATA[frame.kind], frame.payload)
        elif frame.kind is FrameKind.EXIT:
            yield from self._flush()
            yield ExecFrame(type="exit", offset=frame.offset, exec=exit_state(frame.payload))
        elif frame.kind is FrameKind.LIMIT:
            yield ExecFrame(type="limit", offset=frame.offset, breach=limit_breach(frame.payload))
        elif frame.kind is FrameKind.GAP:
            yield ExecFrame(type="gap", offset=frame.offset, data=frame.payload.decode(errors="replace"))
        else:
            yield ExecFrame(type="keepalive", offset=frame.offset)

    def _data(self, stream: _Stream, payload: bytes) -> Iterator[ExecFrame]:
        data = self._rests.pop(stream, b"") + payload
        text, used = _decoded(data)
        if text is None:
            yield ExecFrame(type=stream, offset=self.offset, data=base64.b64encode(data).decode(), encoding="base64")
            return
        if used < len(data):
            self._rests[stream] = data[used:]
        if text:
            yield ExecFrame(type=stream, offset=self.offset, data=text)

    def _flush(self) -> Iterator[ExecFrame]:
        for stream, rest in self._rests.items():
            yield ExecFrame(type=stream, offset=self.offset, data=base64.b64encode(rest).decode(), encoding="base64")
        self._rests.clear()


class Gathered:
    """The beginning of a command's output, while it is waited for."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._streams: dict[FrameKind, bytearray] = {kind: bytearray() for kind in _DATA}
        self._truncated = False

    def add(self, frame: Frame) -> None:
        """One more frame."""
        if frame.kind is FrameKind.GAP:
            self._truncated = True
        if frame.kind not in _DATA:
            return
        kept = self._streams[frame.kind]
        room = self._limit - len(kept)
        kept += frame.payload[:room]
        self._truncated |= len(frame.payload) > room

    def result(self, state: ExecState) -> ExecResult:
        """The answer. What a terminal showed counts as standard output."""
        out = self._streams[FrameKind.STDOUT] + self._streams[FrameKind.PTY]
        return ExecResult(
            **state.model_dump(),
            stdout=out.decode(errors="replace"),
            stderr=self._streams[FrameKind.STDERR].decode(errors="replace"),
            truncated=self._truncated,
        )


def _decoded(data: bytes) -> tuple[str | None, int]:
    """The text of the data but a last character that is not whole, and how many bytes it took; None for what is no
    text."""
    try:
        return codecs.utf_8_decode(data, "strict", False)
    except UnicodeDecodeError:
        return None, 0
