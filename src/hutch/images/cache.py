"""Where built things lie in the cache directory, and how they get there whole or not at all.

    <cache>/images/<hash>.erofs      finished images
    <cache>/rootfs/<build>/          one layer of a root file system (a derived template has its base's below it)
    <cache>/rootfs/<key>.json        which build stands for a recipe now
    <cache>/python/<key>/            the Python that the guest runs on
    <cache>/tmp/<key>.<random>/      what is being built, or is being deleted
    <cache>/locks/<key>              one lock a key; held by whoever builds it

The cache may be emptied at any time; only what is built anew is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from hutch.errors import DiskFull, TemplateBuildFailed

_POLL = 0.1


class Cache:
    """The layout of one cache directory, its locks and its temporary places."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.images = root / "images"
        self.rootfs = root / "rootfs"
        self.python = root / "python"
        self._tmp = root / "tmp"
        self._locks = root / "locks"

    def prepare(self) -> None:
        """Make the directories. Root's only: they hold root-owned trees with setuid programs."""
        self.root.mkdir(parents=True, exist_ok=True)
        for directory in (self.images, self.rootfs, self.python, self._tmp, self._locks):
            directory.mkdir(exist_ok=True)
        os.chmod(self.rootfs, 0o700)
        os.chmod(self._tmp, 0o700)

    @asynccontextmanager
    async def lock(self, key: str, waiting: Callable[[], Awaitable[None]] | None = None) -> AsyncIterator[None]:
        """Hold the lock of `key`; `waiting` is called once when another holds it. The kernel drops it on any death."""
        self.prepare()
        fd = os.open(self._locks / key, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while not _try_lock(fd):
                if waiting is not None:
                    await waiting()
                    waiting = None
                await asyncio.sleep(_POLL)
            yield
        finally:
            os.close(fd)

    @asynccontextmanager
    async def temporary(self, key: str) -> AsyncIterator[Path]:
        """An empty directory for building `key`, under its lock; removed in the end, whatever happened."""
        path = self._tmp / f"{key}.{secrets.token_hex(4)}"
        path.mkdir(mode=0o700)
        try:
            yield path
        finally:
            await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)

    def discard(self, path: Path) -> None:
        """Delete a file or a tree, so that a half-deleted one is never seen under its own name."""
        trash = self._tmp / f"trash.{secrets.token_hex(8)}"
        with contextlib.suppress(FileNotFoundError):
            path.rename(trash)
            if trash.is_dir():
                shutil.rmtree(trash, ignore_errors=True)
            else:
                trash.unlink()

    def sweep(self) -> None:
        """Remove what builders that were killed have left: temporary directories whose key nobody has locked."""
        self.prepare()
        for path in self._tmp.iterdir():
            key = path.name.partition(".")[0]
            fd = os.open(self._locks / key, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                if _try_lock(fd):
                    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
            finally:
                os.close(fd)

    def free_space(self) -> int:
        """Bytes that may still be written."""
        return shutil.disk_usage(self.root).free

    def require_space(self, need: int) -> None:
        """Raise `DiskFull` now rather than in the middle of a build."""
        self.prepare()
        free = self.free_space()
        if free < need:
            raise DiskFull(
                f"{self.root} has {free >> 20} MiB free, the build needs about {need >> 20} MiB",
                hint="Free some space, or set HUTCH_CACHE_DIR to a larger disk.",
            )


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise TemplateBuildFailed(f"cannot lock in the cache directory: {error}") from error
    return True


def write_atomic(path: Path, data: str) -> None:
    """Replace the file in one step."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    temporary.write_text(data)
    temporary.replace(path)


def write_pointer(path: Path, template: str, builds: list[str]) -> None:
    """Let the recipe of this pointer stand for these builds, the lowest first."""
    write_atomic(path, json.dumps({"template": template, "builds": builds}))


def read_pointer(path: Path) -> list[str]:
    """The builds that a pointer names; none when it is absent or damaged."""
    try:
        builds = json.loads(path.read_text())["builds"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [name for name in builds if isinstance(name, str)] if isinstance(builds, list) else []
