"""A disk that remembers how it looked at every step, and what of that a power cut could have taken."""

from __future__ import annotations

import os
import random
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from hutch.snapshots.disk import Disk
from hutch.snapshots.index import Index


@dataclass(frozen=True)
class Promises:
    """What the store has said by then."""

    durable: frozenset[str] = frozenset()
    """Survives a power cut."""
    admitted: frozenset[str] = frozenset()
    """Survives the process."""


@dataclass(frozen=True)
class Picture:
    """The store's directory at one step."""

    root: Path
    step: str
    promises: Promises
    synced: frozenset[str]
    """Files, relative to the root, whose content is on the disk."""
    renames: tuple[tuple[str, str], ...]
    """Renames that the disk has not been told to keep, in their order."""

    def cut_power(self, chance: random.Random) -> None:
        """Make of the picture what might be found when the machine comes up again."""
        torn = [path for path in self.root.rglob("*") if path.is_file() and not self._survives(path)]
        for path in torn:
            _tear(path, chance)
        for source, target in reversed(self.renames[chance.randint(0, len(self.renames)) :]):
            if (self.root / target).exists() and not (self.root / source).exists():
                (self.root / target).rename(self.root / source)

    def _survives(self, path: Path) -> bool:
        name = path.relative_to(self.root).as_posix()
        return name in self.synced or "/" not in name  # SQLite sees to its own


def _tear(path: Path, chance: random.Random) -> None:
    size = path.stat().st_size
    match chance.choice(["short", "zeros", "noise", "whole"]):
        case "short":
            os.truncate(path, chance.randint(0, size))
        case "zeros" if size:
            at = chance.randrange(size)
            with path.open("r+b") as file:
                file.seek(at)
                file.write(bytes(min(4096, size - at)))
        case "noise" if size:
            with path.open("r+b") as file:
                file.seek(chance.randrange(size))
                file.write(b"\xaa")


class CameraDisk(Disk):
    """Takes a picture before every change, and in the middle of every write."""

    def __init__(self, root: Path, album: Path) -> None:
        self.pictures: list[Picture] = []
        self.promises = Promises()
        self.index: Index | None = None
        """Once the store is open and has threads: so that no picture shows half a write of SQLite by another one."""
        self._root = root
        self._album = album
        self._lock = threading.RLock()
        self._open: dict[int, str] = {}
        self._synced: set[str] = set()
        self._renames: list[tuple[str, str]] = []

    def create(self, path: Path) -> int:
        with self._shot("create", path):
            descriptor = super().create(path)
            self._open[descriptor] = self._name(path)
            return descriptor

    def write(self, descriptor: int, data: bytes | memoryview, offset: int) -> None:
        self._synced.discard(self._open.get(descriptor, ""))
        half = len(data) // 2
        super().write(descriptor, data[:half], offset)
        with self._shot("write", None):
            super().write(descriptor, data[half:], offset + half)

    def truncate(self, descriptor: int, size: int) -> None:
        with self._shot("truncate", None):
            super().truncate(descriptor, size)

    def sync(self, descriptor: int) -> None:
        with self._shot("sync", None):
            super().sync(descriptor)
            self._synced.add(self._open.get(descriptor, ""))

    def sync_path(self, path: Path) -> None:
        with self._shot("sync_path", path):
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
            self._synced.add(self._name(path))
            if path.is_dir():
                self._renames = [pair for pair in self._renames if Path(pair[1]).parent != Path(self._name(path))]

    def rename(self, source: Path, target: Path) -> None:
        with self._shot("rename", target):
            super().rename(source, target)
            old, new = self._name(source), self._name(target)
            moved = {name for name in self._synced if name == old or name.startswith(old + "/")}
            self._synced = self._synced - moved | {new + name[len(old) :] for name in moved}
            self._renames.append((old, new))

    def unlink(self, path: Path) -> None:
        with self._shot("unlink", path):
            super().unlink(path)

    def remove_tree(self, path: Path) -> None:
        with self._shot("remove_tree", path):
            super().remove_tree(path)

    @contextmanager
    def _shot(self, step: str, path: Path | None) -> Iterator[None]:
        with self._lock:
            with self.index.read() if self.index is not None else nullcontext():
                self._take(f"{step} {self._name(path) if path else ''}")
            yield

    def _take(self, step: str) -> None:
        into = self._album / f"{len(self.pictures):04}"
        shutil.copytree(self._root, into)
        picture = Picture(into, step, self.promises, frozenset(self._synced), tuple(self._renames))
        self.pictures.append(picture)

    def _name(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()
