"""A process's output as it comes, and as a whole."""

from __future__ import annotations

import base64
import codecs
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, cast, get_args

from hutch.model import CodeError, CodeFrame, CodeResult, CodeValue, ExecFrame, ExecResult, ExecState, LimitBreach

MAX_COLLECTED = 64 << 20
"""Most bytes of each stream that `run` keeps in memory; more is left out and `truncated` says so."""

Kind = Literal["stdout", "stderr", "pty", "gap", "limit", "exit"]
OnText = Callable[[str], None]


@dataclass(frozen=True)
class Output:
    """One piece of what a process gave.

    `stdout`, `stderr`, `pty`: `data`. `gap`: older output was dropped, `data` is a JSON note. `limit`: `breach`.
    `exit`: `state`, and nothing comes after.
    """

    kind: Kind
    offset: int
    """Read on from here."""
    data: bytes = b""
    breach: LimitBreach | None = None
    state: ExecState | None = None

    @property
    def text(self) -> str:
        """`data` as text. A character may be cut in two between pieces; what is no UTF-8 is shown as U+FFFD."""
        return self.data.decode(errors="replace")


def output_of(frame: ExecFrame) -> Output | None:
    """The output that a frame of the wire carries; None for frames that only keep the line open."""
    if frame.type not in get_args(Kind):
        return None
    return Output(cast(Kind, frame.type), frame.offset, _data(frame), frame.breach, frame.exec)


def _data(frame: ExecFrame) -> bytes:
    if frame.data is None:
        return b""
    return base64.b64decode(frame.data) if frame.encoding == "base64" else frame.data.encode()


@dataclass
class _Stream:
    """One of the two streams, gathered."""

    on_text: OnText | None
    kept: bytearray = field(default_factory=bytearray)
    truncated: bool = False
    decoder: codecs.IncrementalDecoder = field(default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace"))

    def add(self, data: bytes, final: bool = False) -> None:
        room = MAX_COLLECTED - len(self.kept)
        self.kept += data[:room]
        self.truncated = self.truncated or len(data) > room
        if self.on_text and (text := self.decoder.decode(data, final)):
            self.on_text(text)


class Collector:
    """Gathers output into an `ExecResult`, and tells the callbacks as it comes."""

    def __init__(self, on_stdout: OnText | None, on_stderr: OnText | None) -> None:
        self._stdout, self._stderr = _Stream(on_stdout), _Stream(on_stderr)
        self._gap = False

    def add(self, output: Output) -> None:
        """Take one piece."""
        if output.kind in ("stdout", "pty"):
            self._stdout.add(output.data)
        elif output.kind == "stderr":
            self._stderr.add(output.data)
        elif output.kind == "gap":
            self._gap = True

    def result(self, state: ExecState) -> ExecResult:
        """Everything together, after the end."""
        self._stdout.add(b"", final=True)
        self._stderr.add(b"", final=True)
        return ExecResult(
            **state.model_dump(),
            stdout=self._stdout.kept.decode(errors="replace"),
            stderr=self._stderr.kept.decode(errors="replace"),
            truncated=self._gap or self._stdout.truncated or self._stderr.truncated,
        )


class CodeCollector:
    """Gathers what code gives into a `CodeResult`, and tells the callbacks as it comes."""

    def __init__(
        self, on_stdout: OnText | None, on_stderr: OnText | None, on_result: Callable[[CodeValue], None] | None
    ) -> None:
        self._streams = {"stdout": _Stream(on_stdout), "stderr": _Stream(on_stderr)}
        self._on_result = on_result
        self._results: list[CodeValue] = []
        self._error: CodeError | None = None
        self._count: int | None = None
        self._gap = False

    def add(self, frame: CodeFrame) -> None:
        """Take one frame."""
        if frame.type in self._streams:
            self._streams[frame.type].add((frame.text or "").encode(errors="replace"))
        elif frame.result is not None:
            self._results.append(frame.result)
            if self._on_result:
                self._on_result(frame.result)
        self._error = frame.error or self._error
        self._count = frame.count if frame.count is not None else self._count
        self._gap = self._gap or frame.type == "gap"

    def result(self) -> CodeResult:
        """Everything together, after the end."""
        stdout, stderr = self._streams["stdout"], self._streams["stderr"]
        return CodeResult(
            results=self._results,
            stdout=stdout.kept.decode(errors="replace"),
            stderr=stderr.kept.decode(errors="replace"),
            error=self._error,
            count=self._count,
            truncated=self._gap or stdout.truncated or stderr.truncated,
        )
