"""Packed disks from hostile guests: nothing gets past the checks, and what is stored is given back byte for byte."""

from __future__ import annotations

import asyncio
import io
import json
import os
import struct
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hutch.errors import SnapshotCorrupt
from hutch.node.disk import archive, entries
from hutch.node.disk.entries import Hostile
from hutch.node.disk.feed import read_in_thread
from hutch_guest.changes import CHILD

ENV = b'{"env": {"A": "b"}}\n'
PLAIN = {"mode": 0o644, "uid": 0, "gid": 0, "mtime": 1}


def line(**entry: Any) -> bytes:
    return json.dumps(entry).encode() + b"\n"


def file(path: str, size: int, *segments: tuple[int, bytes]) -> bytes:
    data = b"".join(struct.pack(">QI", offset, len(part)) + part for offset, part in segments)
    return line(path=path, type="file", size=size, **PLAIN) + data + struct.pack(">QI", 0, 0)


def stream(*parts: bytes) -> bytes:
    return ENV + b"".join(parts) + line(end=True, entries=len(parts))


def write(data: bytes, into: Path, most: int = 1 << 20) -> archive.DiskManifest:
    into.mkdir(exist_ok=True)
    return archive.write(io.BytesIO(data), into, most)


def test_what_a_guest_packs_is_given_back_byte_for_byte(tmp_path: Path) -> None:
    written, image = tmp_path / "written", tmp_path / "image"
    image.mkdir()
    (written / "d").mkdir(parents=True)
    (written / "d/f").write_bytes(os.urandom(300_000))
    (written / os.fsdecode(b"\xff\n")).write_bytes(b"odd")
    with (written / "sparse").open("wb") as sparse:
        sparse.truncate(3 << 20)
        sparse.seek(1 << 20)
        sparse.write(b"x" * 5000)
    os.setxattr(written / "d/f", "user.a", b"b")
    os.symlink("d/f", written / "link")
    argv = [sys.executable, CHILD, "pack", str(written), str(image), "/"]
    packed = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True).stdout
    manifest = write(ENV + packed, tmp_path / "archive")
    assert (manifest.entries, manifest.env) == (5, {"A": "b"})
    given_back = b"".join(archive.stream(tmp_path / "archive"))
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    argv = [sys.executable, CHILD, "restore", str(written), str(image), str(fresh)]
    said = subprocess.run(argv, input=given_back, stdout=subprocess.PIPE, check=True).stdout
    assert json.loads(said) == {"restored": 5}
    for path in ("d/f", "sparse", os.fsdecode(b"\xff\n")):
        assert (fresh / path).read_bytes() == (written / path).read_bytes()
    found = {entry["path"]: entry for entry in archive.read_index(tmp_path / "archive")}
    assert archive.content(tmp_path / "archive", found["sparse"]) == (written / "sparse").read_bytes()
    assert all(place % 4096 == 0 for entry in found.values() for _, _, place in entry.get("data", []))
    assert manifest.pages_bytes == 1 << 20  # cut into pages by the store, however little there is


GOOD = file("f", 5, (0, b"hello"))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}\n",
        b'{"env": {"A": 1}}\n',
        ENV,
        ENV + GOOD,
        stream(GOOD)[:-10],
        stream(GOOD) + b"more",
        ENV + GOOD + line(end=True, entries=2),
        ENV + GOOD + line(error="no"),
        stream(b"[1]\n"),
        stream(b"x" * 2_000_000),
        stream(b'{"a":' * 100_000 + b"\n"),
        *(line(env=env) + line(end=True, entries=0) for env in ([], {"A": 1}, {"A": "\ud800"}, {"\udcff": "b"})),
        *(stream(line(path=path, type="gone")) for path in ("/a", "..", "a/../b", "a//b", "", "a\0", "x" * 256, None)),
        stream(line(path="/".join(["abcdefgh"] * 600), type="gone")),
        stream(line(path="f", type="other", **PLAIN)),
        stream(line(path="f", type="socket", **PLAIN)),
        stream(line(path="f", type="fifo", **{**PLAIN, "mode": 1 << 20})),
        stream(line(path="f", type="fifo", **{**PLAIN, "uid": -1})),
        stream(line(path="f", type="fifo", **{**PLAIN, "uid": True})),
        stream(line(path="f", type="fifo", **{**PLAIN, "mtime": 1.5})),
        stream(line(path="f", type="char", **PLAIN)),
        stream(line(path="f", type="char", device=[1, -1], **PLAIN)),
        stream(line(path="f", type="symlink", target="x" * 5000, **PLAIN)),
        stream(line(path="f", type="hardlink", target="../x")),
        stream(line(path="f", type="directory", xattrs={"user.a": "?"}, **PLAIN)),
        stream(line(path="f", type="directory", xattrs=[1], **PLAIN)),
        stream(line(path="f", type="file", size=-1, **PLAIN) + struct.pack(">QI", 0, 0)),
        stream(file("f", 3, (0, b"hello"))),
        stream(file("f", 9, (4, b"he"), (0, b"he"))),
        stream(file("f", 9, (0, b"hello"), (4, b"o"))),
        stream(file("f", 2**62, (2**62, b"x"))),
        stream(line(path="f", type="file", size=1, **PLAIN) + struct.pack(">QI", 0, 2**31)),
        stream(file("f", 1 << 30, *((n << 18, b"x" * (1 << 18)) for n in range(5)))),
        stream(file("f", 1 << 40, *((n << 13, b"x") for n in range(300)))),
    ],
)
def test_a_stream_that_is_not_as_it_should_be_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(Hostile):
        write(data, tmp_path / "archive")
    assert not archive.is_archive(tmp_path / "archive")


@given(st.binary(max_size=400))
def test_no_bytes_do_more_than_be_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    directory = tmp_path_factory.mktemp("archive")
    for start in (b"", ENV, ENV + GOOD):
        with pytest.raises(Hostile):
            write(start + data, directory)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_no_value_passes_for_a_state_but_one(value: Any) -> None:
    for raw in (value, {"type": "file", "size": value, **PLAIN}, {"type": "symlink", "target": value, **PLAIN}):
        try:
            found = entries.state(raw)
        except Hostile:
            continue
        assert set(found) <= {"type", "mode", "uid", "gid", "mtime", "size", "target"}


def test_a_huge_hole_takes_neither_room_nor_time(tmp_path: Path) -> None:
    manifest = write(stream(file("f", 2**62)), tmp_path / "archive")
    assert manifest.pages_bytes == 1 << 20
    assert len(b"".join(archive.stream(tmp_path / "archive"))) < 1000


def test_an_archive_that_was_cut_is_corrupt(tmp_path: Path) -> None:
    write(stream(GOOD), tmp_path / "archive")
    (tmp_path / "archive" / archive.PAGES).write_bytes(b"")
    with pytest.raises(SnapshotCorrupt):
        archive.read_manifest(tmp_path / "archive")
    (tmp_path / "archive" / archive.MANIFEST).unlink()
    with pytest.raises(SnapshotCorrupt):
        list(archive.read_index(tmp_path / "archive"))


async def pieces(*parts: bytes | Exception) -> AsyncIterator[bytes]:
    for part in parts:
        await asyncio.sleep(0)
        if isinstance(part, Exception):
            raise part
        yield part


async def test_a_stream_is_read_in_a_thread(tmp_path: Path) -> None:
    many = [b"x" * 1000] * 200
    assert await read_in_thread(pieces(*many), lambda source: len(source.read())) == 200_000

    def refuse(source: BinaryIO) -> int:
        source.read(10)
        raise Hostile("no")

    with pytest.raises(Hostile):
        await read_in_thread(pieces(*many), refuse)
    with pytest.raises(ConnectionError):
        await read_in_thread(pieces(b"x", ConnectionError()), lambda source: len(source.read()))


async def test_who_gives_up_waits_for_the_thread() -> None:
    ended = False

    def work(source: BinaryIO) -> None:
        nonlocal ended
        source.read()
        ended = True

    async def endless() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.Event().wait()

    reading = asyncio.create_task(read_in_thread(endless(), work))
    await asyncio.sleep(0.05)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert ended
