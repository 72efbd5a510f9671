"""From an agent's output to events. No I/O: `take` frames, then `drain` what came of them and store it together with
the `row`, which says how far the output was read and is all that is needed to go on from there."""

from __future__ import annotations

import time
from dataclasses import asdict

from hutch.agents import Agent, Outcome
from hutch.control.lines import Line, LineSplitter
from hutch.fleet.frames import Frame, FrameKind
from hutch.fleet.guest import exit_state, limit_breach
from hutch.model import EventType, LimitBreach
from hutch.store.events import NewEvent
from hutch.store.readers import ReaderRow

MAX_TRANSCRIPT = 256 << 20
"""Output of one task that becomes events; of what comes after it, only the count is told."""
_MAX_OUTPUT = 64 << 10
_STREAMS = {FrameKind.STDOUT: "stdout", FrameKind.PTY: "stdout", FrameKind.STDERR: "stderr"}


class Transcript:
    """The reading of one agent's output."""

    def __init__(self, agent: Agent, row: ReaderRow) -> None:
        self._agent = agent
        self._row = row
        self.outcome = Outcome(**row.outcome)
        self._splitters = {
            "stdout": LineSplitter(row.stdout, row.lines.get("stdout", 0)),
            "stderr": LineSplitter(row.stderr, row.lines.get("stderr", 0)),
        }
        self._offset = row.guest_offset
        self._exit = row.exit
        self._taken = row.event_bytes
        self._events: list[NewEvent] = []
        self._breaches: list[LimitBreach] = []
        self.pending_bytes = 0

    @property
    def offset(self) -> int:
        """Where to read on from."""
        return self._offset

    @property
    def ended(self) -> bool:
        """Whether the process has ended, and all of its output was taken."""
        return self._exit is not None

    @property
    def dirty(self) -> bool:
        """Whether there is anything to store."""
        return self._offset != self._row.guest_offset or self.ended != (self._row.exit is not None)

    def take(self, frame: Frame) -> None:
        """One frame of output. Raises `GuestUnavailable` for one that is broken."""
        self._offset = frame.offset
        if frame.kind in _STREAMS:
            self._output(_STREAMS[frame.kind], frame.payload)
        elif frame.kind is FrameKind.LIMIT:
            self._breaches.append(limit_breach(frame.payload))
        elif frame.kind is FrameKind.EXIT:
            self._exit = exit_state(frame.payload).model_dump(mode="json")
            self._finish()

    def drain(self) -> tuple[ReaderRow, list[NewEvent], list[LimitBreach]]:
        """What to store, in one transaction. Call `stored` when that is done."""
        row = ReaderRow(
            task_id=self._row.task_id,
            guest_offset=self._offset,
            lines={name: splitter.skipped for name, splitter in self._splitters.items()},
            stdout=self._splitters["stdout"].pending,
            stderr=self._splitters["stderr"].pending,
            outcome=asdict(self.outcome),
            exit=self._exit,
            event_bytes=self._taken,
        )
        return row, _merged(self._events), self._breaches

    def stored(self, row: ReaderRow) -> None:
        """`row` and what belongs to it are in the database."""
        self._row = row
        self._events, self._breaches = [], []
        self.pending_bytes = 0

    def _output(self, stream: str, payload: bytes) -> None:
        self.pending_bytes += len(payload)
        before, self._taken = self._taken, self._taken + len(payload)
        for line in self._splitters[stream].feed(payload):
            self._line(stream, line)
        if before < MAX_TRANSCRIPT <= self._taken:
            text = f"more than {MAX_TRANSCRIPT >> 20} MiB of output: what follows is not stored"
            self._events.append(NewEvent(EventType.OUTPUT, {"stream": "stderr", "text": text}, time.time()))

    def _line(self, stream: str, line: Line) -> None:
        if line.truncated or stream == "stderr":
            events = [_plain(stream, line)]
        else:
            parsed = self._agent.parse(line.data, self.outcome)  # also when it is not stored: for the outcome
            events = [NewEvent(event.type, event.data, time.time()) for event in parsed]
        if self._taken <= MAX_TRANSCRIPT:
            self._events += events

    def _finish(self) -> None:
        for stream, splitter in self._splitters.items():
            for line in splitter.finish():
                self._line(stream, line)
        if self.outcome.state:  # an empty line makes an adapter give what it has gathered
            self._line("stdout", Line(b""))


def _plain(stream: str, line: Line) -> NewEvent:
    shown = line.data[:_MAX_OUTPUT]
    left_out = line.truncated + len(line.data) - len(shown)
    data: dict[str, object] = {"stream": stream, "text": shown.decode(errors="replace").replace("\x00", "\ufffd")}
    if left_out:
        data["truncated_bytes"] = left_out
    return NewEvent(EventType.OUTPUT, data, time.time())


def _merged(events: list[NewEvent]) -> list[NewEvent]:
    """Neighbouring lines of plain output as one event: an agent that prints a thousand lines at once makes a few."""
    merged: list[NewEvent] = []
    for event in events:
        last = merged[-1] if merged else None
        if last is not None and _mergeable(last, event):
            data = {**last.data, "text": f"{last.data['text']}\n{event.data['text']}"}
            merged[-1] = NewEvent(last.type, data, last.time)
        else:
            merged.append(event)
    return merged


def _mergeable(one: NewEvent, other: NewEvent) -> bool:
    if one.type != EventType.OUTPUT or other.type != EventType.OUTPUT:
        return False
    if one.data.keys() != {"stream", "text"} or other.data.keys() != {"stream", "text"}:
        return False
    return one.data["stream"] == other.data["stream"] and len(one.data["text"]) + len(other.data["text"]) < _MAX_OUTPUT
