"""A blob is whole or absent."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hutch.blobs import FileBlobs
from hutch.errors import NotFound, PayloadTooLarge


async def pieces(*parts: bytes, error: Exception | None = None) -> AsyncIterator[bytes]:
    for part in parts:
        yield part
    if error is not None:
        raise error


async def read(blobs: FileBlobs, key: str, start: int = 0, length: int | None = None) -> bytes:
    return b"".join([chunk async for chunk in blobs.get(key, start, length)])


@pytest.fixture
def blobs(tmp_path: Path) -> FileBlobs:
    return FileBlobs(tmp_path / "blobs")


def files(blobs_root: Path) -> list[Path]:
    return [path for path in blobs_root.rglob("*") if path.is_file()]


async def test_a_blob_comes_back_as_it_was_put(blobs: FileBlobs) -> None:
    big = os.urandom(3 << 20)
    assert await blobs.put("a/b.tar", pieces(b"", big, b"end")) == len(big) + 3
    assert await read(blobs, "a/b.tar") == big + b"end"
    assert await read(blobs, "a/b.tar", len(big)) == b"end"
    for start, length in ((0, 0), (5, 7), (100, 2 << 20), (len(big) - 1, 3), (len(big), 100)):
        assert await read(blobs, "a/b.tar", start, length) == (big + b"end")[start : start + length]
    assert await blobs.size("a/b.tar") == len(big) + 3


async def test_putting_again_replaces(blobs: FileBlobs) -> None:
    await blobs.put("k", pieces(b"one"))
    await blobs.put("k", pieces(b"two!"))
    assert await read(blobs, "k") == b"two!"


async def test_a_stream_that_breaks_leaves_what_was_there_before(blobs: FileBlobs, tmp_path: Path) -> None:
    await blobs.put("k", pieces(b"old"))
    with pytest.raises(ConnectionError):
        await blobs.put("k", pieces(b"new", error=ConnectionError()))
    assert await read(blobs, "k") == b"old"
    assert len(files(tmp_path)) == 1


async def test_a_cancelled_put_leaves_nothing(blobs: FileBlobs, tmp_path: Path) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 1000
            await asyncio.sleep(0)

    put = asyncio.create_task(blobs.put("k", endless()))
    await asyncio.sleep(0.05)
    put.cancel()
    await asyncio.gather(put, return_exceptions=True)
    assert files(tmp_path) == []


async def test_a_stream_that_is_too_long_is_refused_and_removed(blobs: FileBlobs, tmp_path: Path) -> None:
    with pytest.raises(PayloadTooLarge):
        await blobs.put("k", pieces(b"123", b"456"), max_bytes=5)
    assert await blobs.put("k", pieces(b"123", b"45"), max_bytes=5) == 5
    assert len(files(tmp_path)) == 1


async def test_a_blob_that_is_not_there(blobs: FileBlobs) -> None:
    assert await blobs.size("nope") is None
    await blobs.delete("nope")
    with pytest.raises(NotFound):
        await read(blobs, "nope")


@pytest.mark.parametrize("key", ["", "/a", "../a", "a/../b", "a//b", "a/", ".tmp/x", "a b", "a/.", "é", "a\n"])
async def test_keys_cannot_lead_outside(blobs: FileBlobs, key: str) -> None:
    with pytest.raises(ValueError, match="not a blob key"):
        await blobs.put(key, pieces(b"x"))


async def test_keys_are_listed_by_prefix_and_deleted(blobs: FileBlobs) -> None:
    for key in ("a/1", "a/2", "b/1"):
        await blobs.put(key, pieces(b"x"))
    assert [key async for key in blobs.keys("a/")] == ["a/1", "a/2"]
    await blobs.delete("a/1")
    assert [key async for key in blobs.keys("")] == ["a/2", "b/1"]


async def test_temporary_files_of_a_killed_process_are_swept_when_they_are_old(
    blobs: FileBlobs, tmp_path: Path
) -> None:
    await blobs.put("keep", pieces(b"x"))
    old, fresh = tmp_path / "blobs/.tmp/old", tmp_path / "blobs/.tmp/fresh"
    old.write_bytes(b"x")
    fresh.write_bytes(b"x")
    os.utime(old, (time.time() - 7200,) * 2)
    assert await blobs.sweep() == 1
    assert fresh.exists()
    assert await read(blobs, "keep") == b"x"
