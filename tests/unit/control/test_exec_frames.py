"""Output as text where it is text, whole characters, and base64 where it is not."""

from __future__ import annotations

import base64
import json

from hypothesis import given
from hypothesis import strategies as st

from hutch.control.exec_frames import FrameReader, Gathered
from hutch.fleet.frames import Frame, FrameKind
from hutch.model import ExecFrame, ExecState

EXIT = Frame(FrameKind.EXIT, 10_000, json.dumps({"id": "exe_1", "running": False, "exit_code": 3}).encode())


def read(pieces: list[bytes], kind: FrameKind = FrameKind.STDOUT) -> list[ExecFrame]:
    reader, made, offset = FrameReader(), [], 0
    for piece in pieces:
        offset += len(piece)
        made += reader.read(Frame(kind, offset, piece))
    return made + list(reader.read(EXIT))


def data_of(frame: ExecFrame) -> bytes:
    assert frame.data is not None
    return base64.b64decode(frame.data) if frame.encoding == "base64" else frame.data.encode()


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    pieces, position = [], 0
    for size in [*cuts, len(data) + 1]:
        pieces.append(data[position : position + size])
        position += size
    return [piece for piece in pieces if piece]


@given(st.text(st.characters(exclude_categories=["Cs"])), st.lists(st.integers(1, 5)))
def test_text_stays_text_wherever_it_is_cut(text: str, cuts: list[int]) -> None:
    *frames, last = read(cut(text.encode(), cuts))
    assert "".join(frame.data or "" for frame in frames) == text
    assert all(frame.encoding == "utf-8" for frame in frames)
    assert last.type == "exit"


@given(st.binary(max_size=200), st.lists(st.integers(1, 9)))
def test_any_bytes_come_through_whole(data: bytes, cuts: list[int]) -> None:
    *frames, _ = read(cut(data, cuts))
    assert b"".join(map(data_of, frames)) == data


def test_streams_do_not_mix() -> None:
    reader = FrameReader()
    half = list(reader.read(Frame(FrameKind.STDOUT, 1, b"\xc3")))
    other = list(reader.read(Frame(FrameKind.STDERR, 2, b"x")))
    rest = list(reader.read(Frame(FrameKind.STDOUT, 3, b"\xa9")))
    assert (half, other[0].data, rest[0].data) == ([], "x", "é")


def test_what_is_waited_for_is_bounded_and_says_so() -> None:
    gathered = Gathered(10)
    gathered.add(Frame(FrameKind.STDOUT, 8, b"x" * 8))
    gathered.add(Frame(FrameKind.STDOUT, 16, b"y" * 8))
    gathered.add(Frame(FrameKind.STDERR, 18, b"e"))
    result = gathered.result(ExecState(id="exe_1", running=False, exit_code=0))
    assert (result.stdout, result.stderr, result.truncated) == ("xxxxxxxxyy", "e", True)


def test_a_gap_counts_as_truncated() -> None:
    gathered = Gathered(10)
    gathered.add(Frame(FrameKind.GAP, 8, b'{"dropped_bytes": 5}'))
    assert gathered.result(ExecState(id="exe_1", running=False)).truncated
