"""From output to events: the same events however the reading is cut and taken up again."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hutch import agents
from hutch.control import transcript as module
from hutch.control.transcript import Transcript
from hutch.errors import GuestUnavailable
from hutch.fleet.frames import Frame, FrameKind
from hutch.store.events import NewEvent
from hutch.store.readers import ReaderRow

EXIT = {"id": "exe_1", "running": False, "exit_code": 0, "output_end": 0}
BREACH = {"limit": "pids", "amount": 10, "used": 10, "action": "refused", "message": "m"}


def frames_of(*parts: tuple[FrameKind, bytes], ended: bool = True) -> list[Frame]:
    offset, frames = 0, []
    for kind, payload in [*parts, *([(FrameKind.EXIT, json.dumps(EXIT).encode())] if ended else [])]:
        offset += 13 + len(payload)
        frames.append(Frame(kind, offset, payload))
    return frames


def through_the_database(row: ReaderRow) -> ReaderRow:
    """What a row is after it was stored: JSON columns as JSON has them."""
    values: dict[str, Any] = asdict(row)
    kept = {name: values.pop(name) for name in ("stdout", "stderr")}
    return ReaderRow(**json.loads(json.dumps(values)), **kept)


def read(frames: list[Frame], agent: str = "command", store_after: frozenset[int] = frozenset()) -> list[NewEvent]:
    """All events; after these frames, the reader is killed and another goes on from the database."""
    row, events = ReaderRow("tsk_1"), []
    reader = Transcript(agents.get(agent), row)
    for index, frame in enumerate(frames):
        reader.take(frame)
        if index in store_after:
            row, new, _ = reader.drain()
            events += new
            reader = Transcript(agents.get(agent), through_the_database(row))
            assert reader.offset == frame.offset
    events += reader.drain()[1]
    return events


def text_of(events: list[NewEvent], stream: str) -> str:
    return "\n".join(event.data["text"] for event in events if event.data.get("stream") == stream)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from([FrameKind.STDOUT, FrameKind.STDERR]), st.binary(min_size=1, max_size=40))),
    st.frozensets(st.integers(0, 12)),
)
def test_no_line_is_lost_or_doubled_wherever_the_reader_is_killed(
    parts: list[tuple[FrameKind, bytes]], kills: frozenset[int]
) -> None:
    frames = frames_of(*parts)
    whole, pieces = read(frames), read(frames, store_after=kills)
    for stream in ("stdout", "stderr"):
        assert text_of(pieces, stream) == text_of(whole, stream)


def test_the_words_of_claude_survive_a_kill_between_any_two_frames() -> None:
    def line(value: dict[str, Any]) -> bytes:
        return json.dumps(value).encode() + b"\n"

    delta = {"type": "stream_event", "event": {"type": "content_block_delta",
             "delta": {"type": "text_delta", "text": "word "}}}  # fmt: skip
    start = {"type": "stream_event", "event": {"type": "message_start", "message": {"id": "m1"}}}
    data = line(start) + line(delta) * 100
    frames = frames_of(*[(FrameKind.STDOUT, data[i : i + 97]) for i in range(0, len(data), 97)])
    for kills in (frozenset[int](), frozenset(range(0, 100, 3)), frozenset(range(100))):
        events = read(frames, "claude-code", kills)
        assert "".join(event.data["text"] for event in events) == "word " * 100


def test_lines_that_come_together_are_one_event() -> None:
    events = read(frames_of((FrameKind.STDOUT, b"a\nb\n"), (FrameKind.STDOUT, b"c\n"), (FrameKind.STDERR, b"d\n")))
    assert [event.data for event in events] == [
        {"stream": "stdout", "text": "a\nb\nc"},
        {"stream": "stderr", "text": "d"},
    ]


def test_a_long_line_is_one_shortened_event() -> None:
    data = [(FrameKind.STDOUT, b"y" * 65536)] * 64 + [(FrameKind.STDOUT, b"\nafter\n")]
    events = read(frames_of(*data))
    assert len(events) == 2
    assert events[0].data["truncated_bytes"] + len(events[0].data["text"]) == 64 * 65536
    assert events[1].data == {"stream": "stdout", "text": "after"}


def test_what_is_printed_without_a_newline_at_the_end_is_kept() -> None:
    assert text_of(read(frames_of((FrameKind.STDOUT, b"no newline"))), "stdout") == "no newline"


def test_output_without_end_does_not_fill_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_TRANSCRIPT", 1000)
    events = read(frames_of(*[(FrameKind.STDOUT, b"x" * 99 + b"\n")] * 500))
    assert sum(len(event.data["text"]) for event in events) < 2500
    assert "not stored" in events[-1].data["text"]


def test_the_end_and_breaches_are_noted() -> None:
    limit = Frame(FrameKind.LIMIT, 5, json.dumps(BREACH).encode())
    reader = Transcript(agents.get("command"), ReaderRow("tsk_1"))
    reader.take(limit)
    assert reader.dirty
    reader.take(frames_of()[0])
    row, _, breaches = reader.drain()
    assert [breach.limit for breach in breaches] == ["pids"]
    assert row.exit is not None
    assert reader.ended
    assert Transcript(agents.get("command"), through_the_database(row)).ended


def test_broken_frames_are_the_guests_fault() -> None:
    reader = Transcript(agents.get("command"), ReaderRow("tsk_1"))
    with pytest.raises(GuestUnavailable):
        reader.take(Frame(FrameKind.EXIT, 5, b"[]"))
