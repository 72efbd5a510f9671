"""The small parts: pace, recipes, chunks, packs and the order of the cache."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from hutch.snapshots import chunks
from hutch.snapshots.hot import HotCache
from hutch.snapshots.pace import BURST, LONGEST_NAP, Pace, Stopped
from hutch.snapshots.parts import in_thread
from hutch.snapshots.recipe import HOLE, MOST_LENGTH, Extent, FileRecipe, Recipe, decode
from hutch.snapshots.zstd import Damaged, decompress


def test_work_is_held_to_its_share() -> None:
    for share in (0.25, 0.5):
        step = Pace(share).meter()
        cpu, wall = time.thread_time(), time.monotonic()
        while time.thread_time() - cpu < 6 * BURST:
            step()
        assert time.monotonic() - wall >= 4 * BURST / share


def test_work_ends_at_its_next_step_when_the_store_closes() -> None:
    ticks: Iterator[float] = iter([0.0, 1000.0])
    pace = Pace(0.01, clock=lambda: next(ticks))
    step = pace.meter()
    pace.stop()
    with pytest.raises(Stopped):
        step()


def test_the_background_stands_back_while_something_urgent_is_done() -> None:
    pace, steps = Pace(1.0), 0
    step = pace.meter()

    def work() -> None:
        nonlocal steps
        for _ in range(1000):
            step()
            steps += 1

    with pace.urgent():
        thread = threading.Thread(target=work)
        thread.start()
        time.sleep(0.1)
        assert steps == 0
    thread.join(LONGEST_NAP)
    assert steps == 1000


@pytest.mark.parametrize("share", [0, -1, 1.1])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        Pace(share)


EXTENTS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9), st.integers(1, 9)), max_size=30)


@given(st.lists(EXTENTS, max_size=4))
def test_a_recipe_comes_back_and_says_the_same_bytes(files: list[list[tuple[int, int, int]]]) -> None:
    recipe = Recipe([FileRecipe(f"file{n}") for n in range(len(files))])
    for file, extents in zip(recipe.files, files, strict=True):
        for extent in extents:
            file.add(*extent)
        spelled = [(s, o + i if s != HOLE else 0) for s, o, length in extents for i in range(length)]
        merged = [(e.segment, e.offset + i if e.segment != HOLE else 0) for e in file.extents for i in range(e.length)]
        assert merged == spelled
    again = decode(*recipe.encode())
    assert again == recipe
    assert again.segments() == {s for extents in files for s, _, _ in extents} - {HOLE}


def test_neighbours_become_one_extent_as_far_as_it_can_count() -> None:
    file = FileRecipe("a")
    for _ in range(3):
        file.add(HOLE, 0, MOST_LENGTH // 2)
    file.add(5, 0, 4096)
    file.add(5, 4096, 4096)
    file.add(5, 4096, 4096)
    assert [extent.length for extent in file.extents[:2]] == [MOST_LENGTH - 1, MOST_LENGTH // 2]
    assert file.extents[2:] == [Extent(5, 0, 8192), Extent(5, 4096, 4096)]


def test_a_recipe_with_another_hash_is_damaged() -> None:
    data, digest = Recipe([FileRecipe("a")]).encode()
    with pytest.raises(Damaged):
        decode(data + b"x", digest)


@pytest.mark.parametrize(
    ("size", "expected"),
    [(0, chunks.COARSE), (4096, chunks.COARSE), (1 << 20, chunks.PAGE), ((1 << 20) + 1, chunks.COARSE)],
)
def test_only_what_looks_like_memory_is_cut_into_pages(size: int, expected: int) -> None:
    assert chunks.chunk_size(size) == expected


@given(pages=st.integers(0, 600), more=st.sampled_from([0, 1, 4095]))
def test_chunks_put_together_are_the_file(tmp_path_factory: pytest.TempPathFactory, pages: int, more: int) -> None:
    path = tmp_path_factory.getbasetemp() / "chunks"
    path.write_bytes(bytes(range(256)) * 16 * pages + b"x" * more)
    descriptor = os.open(path, os.O_RDONLY)
    size = chunks.chunk_size(path.stat().st_size)
    found = [chunk for block in chunks.blocks(descriptor) for chunk in chunks.cut(block, size)]
    os.close(descriptor)
    assert b"".join(found) == path.read_bytes()
    assert {len(chunk) for chunk in found[:-1]} <= {chunks.chunk_size(path.stat().st_size)}


@pytest.mark.parametrize("size", [1, 4095, 4096, 65536])
def test_zero_chunks_are_told_from_others(size: int) -> None:
    assert chunks.is_zero(bytes(size))
    assert not chunks.is_zero(bytes(size - 1) + b"\1")
    assert not chunks.is_zero(b"\1" + bytes(size - 1))


@pytest.mark.parametrize("size", [9, 11, 0, 1 << 40])
def test_a_frame_of_another_size_is_damaged(size: int) -> None:
    with pytest.raises(Damaged):
        decompress(zstandard.compress(b"0123456789"), size)


def test_large_frames_come_back() -> None:
    data = os.urandom(3 << 20) + bytes(9 << 20)
    for level in (1, 3, 19):
        assert decompress(zstandard.compress(data, level), len(data)) == data


def test_the_cache_lets_the_longest_unused_go_and_never_what_is_needed() -> None:
    cache = HotCache(25)
    for id in "abcd":
        cache.add(id, 10)
    assert cache.surplus("abcd") == ["a", "b"]
    cache.lease("a")
    assert cache.surplus("abcd") == ["b", "c"]
    assert cache.surplus("cd") == ["c", "d"]
    assert not cache.release("a")
    assert cache.surplus("abcd") == ["b", "c"]  # it was used last
    cache.lease("b")
    cache.lease("b")
    cache.forget("b")
    assert cache.leased("b")
    assert not cache.release("b")
    assert cache.release("b")
    assert (cache.total, cache.leased("b")) == (30, False)


async def test_a_cancelled_call_waits_for_what_it_started() -> None:
    done: list[int] = []

    def work() -> None:
        time.sleep(0.3)
        done.append(1)

    with ThreadPoolExecutor(1) as pool:
        call = asyncio.create_task(in_thread(pool, work))
        await asyncio.sleep(0.05)
        call.cancel()
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert done == [1]


def test_the_layout_is_for_its_owner_only(tmp_path: Path) -> None:
    from hutch.snapshots.layout import Layout

    layout = Layout(tmp_path / "root")
    layout.prepare()
    assert {path.stat().st_mode & 0o777 for path in (layout.root, layout.packs, layout.hot, layout.tmp)} == {0o700}
