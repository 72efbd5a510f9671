"""The spool: whole frames, bounded, readable from any point."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hutch_guest.processes.frames import GAP, HEAD, STDOUT, FrameReader
from hutch_guest.processes.spool import IN_MEMORY, Cursor, Spool

BIG = b"x" * 65536


def make(directory: Path, limit: int = 1 << 20, retain_all: bool = False) -> Spool:
    return Spool(str(directory / "s"), limit, retain_all)


def read_all(cursor: Cursor) -> list[tuple[int, int, bytes]]:
    reader, frames = FrameReader(), []
    while block := cursor.read(100_000):
        frames += reader.feed(block)
    return frames


def test_small_output_needs_no_file(tmp_path: Path) -> None:
    spool = make(tmp_path)
    spool.append(STDOUT, b"hello")
    assert os.listdir(tmp_path) == []
    assert read_all(spool.cursor(0)) == [(STDOUT, spool.end, b"hello")]


def test_offsets_are_where_to_go_on(tmp_path: Path) -> None:
    spool = make(tmp_path)
    for number in range(300):
        spool.append(STDOUT, b"%d" % number * 20)
    frames = read_all(spool.cursor(0))
    for index in (0, 100, 299):
        assert read_all(spool.cursor(frames[index][1])) == frames[index + 1 :]


def test_the_oldest_goes_when_nobody_reads(tmp_path: Path) -> None:
    spool = make(tmp_path)
    for _ in range(100):
        spool.append(STDOUT, BIG)
        assert not spool.full()
    assert spool.size <= (1 << 20) + (1 << 18)
    frames = read_all(spool.cursor(0))
    assert frames[0][0] == GAP
    assert frames[0][1] == spool.start
    assert all(frame == (STDOUT, frame[1], BIG) for frame in frames[1:])
    spool.drop()
    assert os.listdir(tmp_path) == []


def test_a_reader_holds_the_writer_back(tmp_path: Path) -> None:
    spool, room = make(tmp_path), []
    spool.on_room = lambda: room.append(True)
    cursor = spool.cursor(0)
    count = 0
    while not spool.full():
        spool.append(STDOUT, BIG)
        count += 1
    assert 14 <= count <= 18
    assert len(read_all(cursor)) == count
    assert room == [True]
    assert not spool.full()


def test_a_reader_that_leaves_lets_the_writer_go_on(tmp_path: Path) -> None:
    spool, room = make(tmp_path), []
    spool.on_room = lambda: room.append(True)
    cursor = spool.cursor(0)
    while not spool.full():
        spool.append(STDOUT, BIG)
    cursor.close()
    assert room == [True]


def test_nothing_unacknowledged_is_dropped(tmp_path: Path) -> None:
    spool, room = make(tmp_path, retain_all=True), []
    spool.on_room = lambda: room.append(True)
    while not spool.full():
        spool.append(STDOUT, BIG)
    frames = read_all(spool.cursor(0))
    assert spool.full()
    spool.ack(frames[8][1])
    assert not spool.full()
    assert room == [True]
    assert read_all(spool.cursor(frames[8][1])) == frames[9:]
    spool.ack(spool.end)
    assert spool.size == 0
    assert os.listdir(tmp_path) == []


def test_a_reader_inside_a_dropped_segment_still_sees_whole_frames(tmp_path: Path) -> None:
    spool = make(tmp_path, retain_all=True)
    for _ in range(10):
        spool.append(STDOUT, BIG)
    cursor, reader = spool.cursor(0), FrameReader()
    frames = list(reader.feed(cursor.read(70_000)))  # ends within the second frame
    spool.ack(spool.end)
    spool.append(STDOUT, b"after")
    while block := cursor.read(100_000):
        frames += reader.feed(block)
    kinds = [kind for kind, _, _ in frames]
    assert kinds[-2:] == [GAP, STDOUT]
    assert frames[-1][2] == b"after"
    assert all(payload == BIG for kind, _, payload in frames if kind == STDOUT and payload != b"after")
    cursor.close()


def test_no_file_stays_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    spool = make(tmp_path)
    for _ in range(40):
        spool.append(STDOUT, BIG)
    cursor = spool.cursor(0)
    read_all(cursor)
    spool.seal()
    cursor.close()
    assert len(os.listdir("/proc/self/fd")) == before
    other = spool.cursor(0)
    assert read_all(other)
    other.close()
    spool.drop()
    assert len(os.listdir("/proc/self/fd")) == before


def test_without_a_disk_output_still_flows_to_whoever_acknowledges(tmp_path: Path) -> None:
    spool = Spool("/proc/no-such-place/s", 1 << 20, retain_all=True)
    for _ in range(3):
        spool.append(STDOUT, BIG)
    with pytest.raises(OSError):
        spool.append(STDOUT, BIG)
    for _ in range(10):
        end = spool.end
        cursor = spool.cursor(spool.start)
        assert len(read_all(cursor)) in (1, 3)
        cursor.close()
        spool.ack(end)
        spool.append(STDOUT, BIG)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(
    sizes=st.lists(st.integers(0, IN_MEMORY * 3), max_size=60),
    reads=st.lists(st.integers(1, 20_000), min_size=1, max_size=60),
    retain_all=st.booleans(),
)
def test_a_slow_reader_gets_whole_frames_in_order(
    tmp_path: Path, sizes: list[int], reads: list[int], retain_all: bool
) -> None:
    spool = make(tmp_path, 300_000, retain_all)
    cursor, reader, seen = spool.cursor(0), FrameReader(), []
    for index, size in enumerate(sizes):
        spool.append(STDOUT, bytes([index]) * size)
        seen += reader.feed(cursor.read(reads[index % len(reads)]))
    while block := cursor.read(reads[0]):
        seen += reader.feed(block)
    cursor.close()
    spool.drop()
    assert [payload for _, _, payload in seen] == [bytes([index]) * size for index, size in enumerate(sizes)]
    position = 0
    for _, offset, payload in seen:
        position += HEAD.size + len(payload)
        assert offset == position
