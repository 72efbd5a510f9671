"""What may be removed from the cache: what no recipe of today leads to, and no process has open.

The clock of an image and of its build's pointer is the last time it was given out to boot from (`ImageStore.resolve`).
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hutch.images.cache import Cache, read_pointer

HOUR = 3600.0
DAY = 24 * HOUR

SUPERSEDED_AFTER = HOUR
"""For builds in whose place a newer one stands: a derived template may just be built on it."""

SUPERSEDED_IMAGE_AFTER = HOUR / 6
"""For images in whose place a newer one stands: long enough for a boot that was just given the old one."""

UNKNOWN_AFTER = 3 * DAY
"""For what belongs to recipes that these settings do not know: another `templates_dir` may."""


@dataclass(frozen=True)
class Current:
    """What the recipes of today lead to."""

    images: frozenset[str]
    pointers: frozenset[str]
    python: str
    builds: frozenset[str] = frozenset()
    """Those that templates stand on which no recipe leads to."""


def collect(cache: Cache, current: Current, *, now: float | None = None) -> list[Path]:
    """Remove what nobody needs any more; what was removed. Blocking: large trees take seconds."""
    clock = time.time() if now is None else now
    garbage = [*_images(cache, current, clock), *_builds(cache, current, clock), *_pythons(cache, current, clock)]
    for path in garbage:
        cache.discard(path)
    return garbage


def _images(cache: Cache, current: Current, clock: float) -> list[Path]:
    families = {name[:16] for name in current.images}
    old = []
    for path in cache.images.glob("*.erofs"):
        limit = SUPERSEDED_IMAGE_AFTER if path.stem[:16] in families else UNKNOWN_AFTER
        if path.stem not in current.images and clock - _modified(path) > limit:
            old.append(path)
    in_use = _open_files(cache.images) if old else set()
    return [path for path in old if str(path) not in in_use]


def _builds(cache: Cache, current: Current, clock: float) -> Iterator[Path]:
    """Pointers of forgotten recipes, and builds that no pointer names (any more)."""
    needed = set(current.builds)
    for pointer in cache.rootfs.glob("*.json"):
        if pointer.stem not in current.pointers and clock - _modified(pointer) > UNKNOWN_AFTER:
            yield pointer
        else:
            needed.update(read_pointer(pointer))
    for build in cache.rootfs.iterdir():
        if build.suffix != ".json" and build.name not in needed and clock - _changed(build) > SUPERSEDED_AFTER:
            yield build


def _pythons(cache: Cache, current: Current, clock: float) -> list[Path]:
    trees = [path for path in cache.python.iterdir() if path.name != current.python]
    return [path for path in trees if clock - _changed(path) > UNKNOWN_AFTER]


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # another collector was quicker
        return time.time()


def _changed(path: Path) -> float:
    """When it came to its name, or was last touched: the time of modification is that of what is in it."""
    try:
        return path.lstat().st_ctime
    except FileNotFoundError:
        return time.time()


def _open_files(directory: Path) -> set[str]:
    """Files below `directory` that any process has open; a sandbox's kernel holds its image."""
    prefix = f"{directory.resolve()}/"
    found = set()
    for fd in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            target = os.readlink(fd)
            if target.startswith(prefix):
                found.add(str(directory / target.removeprefix(prefix)))
    return found
