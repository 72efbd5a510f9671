"""Frames from a guest: whole whatever the cuts, refused when they can be none."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hutch.errors import GuestUnavailable
from hutch.fleet.frames import Frame, FrameKind, FrameParser


def encode(frames: list[Frame]) -> bytes:
    return b"".join(struct.pack("!BQI", f.kind, f.offset, len(f.payload)) + f.payload for f in frames)


@st.composite
def streams(draw: st.DrawFn) -> list[Frame]:
    offset, frames = 0, []
    for _ in range(draw(st.integers(0, 8))):
        offset += draw(st.integers(0, 1000))
        frames.append(Frame(draw(st.sampled_from(FrameKind)), offset, draw(st.binary(max_size=50))))
    return frames


@given(streams(), st.lists(st.integers(1, 40), max_size=60))
def test_any_cut_gives_the_same_frames(frames: list[Frame], cuts: list[int]) -> None:
    data, parser, found, position = encode(frames), FrameParser(), [], 0
    for cut in [*cuts, len(data) + 1]:
        found += parser.feed(data[position : position + cut])
        position += cut
    assert found == frames


@pytest.mark.parametrize(
    "head",
    [
        struct.pack("!BQI", 7, 5, 0),
        struct.pack("!BQI", 1, 5, 1 << 30),
        struct.pack("!BQI", 1, 1 << 63, 0),
        struct.pack("!BQI", 1, 99, 0),
        b"HTTP/1.1 200 OK\r\n",
    ],
    ids=["kind", "length", "offset", "backwards", "text"],
)
def test_what_can_be_no_frame_is_refused(head: bytes) -> None:
    with pytest.raises(GuestUnavailable):
        FrameParser(start=100).feed(head)


@given(st.binary(max_size=300))
def test_garbage_never_does_worse_than_an_error(data: bytes) -> None:
    parser = FrameParser()
    try:
        for index in range(0, len(data), 7):
            parser.feed(data[index : index + 7])
    except GuestUnavailable:
        pass
