"""The cache: locks, temporary places, what the sweep leaves and what it takes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hutch.errors import DiskFull
from hutch.images.cache import Cache, write_atomic


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    made = Cache(tmp_path / "cache")
    made.prepare()
    return made


async def test_the_second_waits_for_the_first_and_says_so(cache: Cache) -> None:
    order: list[str] = []

    async def waiting() -> None:
        order.append("waiting")

    async def second() -> None:
        async with cache.lock("key", waiting):
            order.append("second")

    async with cache.lock("key"):
        task = asyncio.create_task(second())
        await asyncio.sleep(0.3)
        order.append("first")
    await task
    assert order == ["waiting", "first", "second"]


async def test_other_keys_are_free(cache: Cache) -> None:
    async with cache.lock("one"), asyncio.timeout(1), cache.lock("two"):
        pass


async def test_a_temporary_directory_is_gone_afterwards_even_on_failure(cache: Cache) -> None:
    with pytest.raises(RuntimeError):
        async with cache.temporary("key") as path:
            (path / "file").write_text("x")
            raise RuntimeError
    assert not path.exists()


async def test_the_sweep_spares_what_is_being_built(cache: Cache) -> None:
    async with cache.lock("busy"), cache.temporary("busy") as busy:
        dead = busy.with_name("dead.12345678")
        (dead / "deep").mkdir(parents=True)
        cache.sweep()
        assert busy.exists()
        assert not dead.exists()


BUILDER = """
import asyncio, sys
from pathlib import Path
from hutch.images.cache import Cache

async def main():
    cache = Cache(Path(sys.argv[1]))
    async with cache.lock("key"), cache.temporary("key") as path:
        (path / "half").write_text("x")
        print(path, flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_a_builder_that_is_killed_leaves_no_lock_and_only_what_the_sweep_takes(cache: Cache) -> None:
    process = subprocess.Popen([sys.executable, "-c", BUILDER, str(cache.root)], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        path = Path(process.stdout.readline().strip())
        cache.sweep()
        assert path.exists(), "the builder lives: its place is its own"
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert path.exists()
    cache.sweep()
    assert not path.exists()
    async with asyncio.timeout(1), cache.lock("key"):
        pass


def test_discard_takes_files_trees_and_nothing(cache: Cache) -> None:
    file = cache.images / "a.erofs"
    file.write_bytes(b"x")
    tree = cache.rootfs / "b"
    (tree / "deep").mkdir(parents=True)
    for path in (file, tree, cache.images / "never-was"):
        cache.discard(path)
        assert not path.exists()
    assert [path for path in cache.root.rglob("trash*")] == []


def test_an_atomic_write_leaves_no_other_file(tmp_path: Path) -> None:
    for text in ("one", "two"):
        write_atomic(tmp_path / "file", text)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "two")]


def test_a_full_disk_is_told_before_the_build(cache: Cache) -> None:
    with pytest.raises(DiskFull, match="MiB free"):
        cache.require_space(1 << 60)


def test_root_file_systems_are_not_for_everybody(cache: Cache) -> None:
    """They have setuid programs: nobody but root may come near them on the host."""
    assert os.stat(cache.rootfs).st_mode & 0o077 == 0
