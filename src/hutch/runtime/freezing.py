"""A freeze under way: the directory that is not a snapshot yet, and a note of it that outlives the daemon.

The note stands in the sandbox's own directory, is locked for as long as anything works on the freeze, and says where
the unfinished directory is. Who finds it unlocked knows that a daemon was killed in the middle, and what to undo. Files
in that directory are locked for as long as the sandbox's kernel writes to them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from hutch.runtime.manifest import MANIFEST, Manifest

NOTE = "freezing"


@dataclass(frozen=True)
class Freezing:
    """One freeze. Its methods block, `seal` for as long as the disk takes to store the snapshot."""

    note: Path
    lock: int
    """Descriptor that holds the lock, also in whoever is given it; who has it can read the note and not write it."""
    partial: Path
    into: Path

    @classmethod
    def begin(cls, directory: Path, into: Path) -> Freezing:
        """Note it and make the unfinished directory. Raises `OSError`; `BlockingIOError` when there is another."""
        if into.exists():
            raise FileExistsError(f"{into} is there already")
        partial = into.with_name(f".{into.name}.partial")
        lock = os.open(directory / NOTE, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            raise BlockingIOError(error.errno, "it is being frozen already") from error
        freezing = cls(directory / NOTE, lock, partial, into)
        try:
            (directory / NOTE).write_bytes(os.fsencode(partial))
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(mode=0o700)
        except BaseException:
            freezing.end()
            raise
        return freezing

    def takes_direct_writes(self) -> bool:
        """Whether the file system there can be written to past the page cache."""
        try:
            os.close(os.open(self.partial, os.O_TMPFILE | os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC))
        except OSError:
            return False
        return True

    def room(self) -> int:
        """Bytes that are free there."""
        disk = os.statvfs(self.partial)
        return disk.f_bavail * disk.f_frsize

    def clear(self) -> None:
        """Empty the unfinished directory, for another attempt."""
        for entry in self.partial.iterdir():
            entry.unlink()

    def files(self) -> dict[str, int]:
        """Names and sizes of what has been written."""
        return {entry.name: entry.stat().st_size for entry in self.partial.iterdir()}

    def seal(self, manifest: Manifest) -> None:
        """Make a snapshot of it: whole, on the disk, and under its name only then. Raises `OSError`."""
        (self.partial / MANIFEST).write_text(manifest.model_dump_json())
        for entry in self.partial.iterdir():
            _sync(entry)
        _sync(self.partial)
        os.rename(self.partial, self.into)
        _sync(self.into.parent)

    def wait(self, seconds: float) -> None:
        """Until nobody writes to the unfinished directory any more. Raises `TimeoutError`."""
        with contextlib.suppress(FileNotFoundError):
            for path in self.partial.iterdir():
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    _take(descriptor, time.monotonic() + seconds, self.partial)
                finally:
                    os.close(descriptor)

    def undo(self) -> None:
        """Remove what has been written."""
        shutil.rmtree(self.partial, ignore_errors=True)

    def end(self) -> None:
        """Remove the note."""
        self.note.unlink(missing_ok=True)
        os.close(self.lock)


def find_abandoned(directory: Path, timeout: float) -> Freezing | None:
    """The freeze of a daemon that was killed, ours now; None when there is none.

    Waits for what that daemon has begun and still goes on. Raises `TimeoutError`.
    """
    end = time.monotonic() + timeout
    try:
        lock = os.open(directory / NOTE, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        _take(lock, end, directory)
        # None: killed between making the note and writing it.
        partial = _noted(directory) or directory / f"{NOTE}.none"
        freezing = Freezing(directory / NOTE, lock, partial, partial)
        freezing.wait(end - time.monotonic())
    except BaseException:
        os.close(lock)
        raise
    return freezing


def _take(descriptor: int, end: float, where: Path) -> None:
    """Wait for the lock on an open file. Raises `TimeoutError` when that is not to be had by then."""
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise TimeoutError(f"a freeze noted in {where} does not end") from None
            time.sleep(0.02)


def forget(directory: Path) -> None:
    """Remove the unfinished directory of any freeze of a sandbox that is dead, and the note."""
    if partial := _noted(directory):
        shutil.rmtree(partial, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        (directory / NOTE).unlink()


def _noted(directory: Path) -> Path | None:
    try:
        text = os.fsdecode((directory / NOTE).read_bytes())
    except FileNotFoundError:
        return None
    return Path(text) if text.endswith(".partial") else None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
