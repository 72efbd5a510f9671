"""The node's own directories, its lasting id, and the lock that keeps a second daemon away."""

from __future__ import annotations

import ctypes
import fcntl
import os
import secrets
import shutil
from pathlib import Path

from hutch.settings import Settings

_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
_TMPFS_MAGIC = 0x01021994
_RAMFS_MAGIC = 0x858458F6
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 2, 4, 8

_libc = ctypes.CDLL(None, use_errno=True)


class StartError(Exception):
    """The daemon cannot start; the text says why and what to do, in one line."""


class NodeHome:
    """`node_dir` (lasting, root's only) and `run_dir` (gone with the machine)."""

    def __init__(self, settings: Settings) -> None:
        self.directory = settings.node_dir
        self.run_dir = settings.run_dir
        self.id = ""
        self._lock = -1

    @property
    def sandboxes(self) -> Path:
        """One directory a sandbox."""
        return self.directory / "sandboxes"

    @property
    def images(self) -> Path:
        """The images that sandboxes and snapshots stand on."""
        return self.directory / "images"

    @property
    def listings(self) -> Path:
        """What snapshots have changed, as far as somebody has asked; may be removed at any time."""
        return self.directory / "listings"

    @property
    def snapshots(self) -> Path:
        """The snapshot store."""
        return self.directory / "snapshots"

    @property
    def archive_key(self) -> Path:
        """The key that exported snapshots are sealed with."""
        return self.directory / "archive.key"

    @property
    def grants(self) -> Path:
        """LLM keys of running sandboxes: in memory, never on a disk."""
        return self.run_dir / "grants"

    def open(self) -> None:
        """Make the directories, take the lock, read or choose the id. Raises `StartError`."""
        if os.geteuid() != 0:
            raise StartError("the node daemon needs root: start it with `sudo hutch up`")
        try:
            self.directory.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            self.directory.mkdir(mode=0o700, exist_ok=True)
            for directory in (self.sandboxes, self.images):
                directory.mkdir(mode=0o700, exist_ok=True)
            self.run_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
            self._take_lock()
            self.id = self._read_id()
        except OSError as error:
            raise StartError(f"cannot write {error.filename or self.directory}: {error.strerror}") from error
        self._make_grants()

    def close(self) -> None:
        """Let go of the lock; when no sandbox's grant is left, unmount what `open` mounted. Nothing when not open."""
        if self._lock < 0:
            return
        if self.grants.is_mount() and not any(self.grants.iterdir()):
            _libc.umount2(os.fsencode(self.grants), 0)
        os.close(self._lock)
        self._lock = -1

    def _take_lock(self) -> None:
        lock = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._lock = lock
        except BlockingIOError:
            os.close(lock)
            raise StartError(f"another node daemon already runs with {self.directory}") from None

    def _read_id(self) -> str:
        path = self.directory / "id"
        if path.exists():
            found = path.read_text().strip()
            if len(found) == 4 and set(found) <= set(_ALPHABET):
                return found
            raise StartError(f"{path} does not hold a node id (4 letters a-z2-7): restore it, or remove it")
        chosen = "".join(secrets.choice(_ALPHABET) for _ in range(4))
        write_atomic(path, chosen.encode() + b"\n")
        return chosen

    def _make_grants(self) -> None:
        self.grants.mkdir(mode=0o700, exist_ok=True)
        if _in_memory(self.grants):
            return
        done = _libc.mount(
            b"tmpfs", os.fsencode(self.grants), b"tmpfs", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, b"size=16m,mode=0700"
        )
        if done != 0:
            reason = os.strerror(ctypes.get_errno())
            raise StartError(f"{self.run_dir} is not a tmpfs and none can be mounted below it: {reason}")


def write_atomic(path: Path, data: bytes, *, durable: bool = False) -> None:
    """Write `path` so that a reader, now or after a kill, sees the old content or the new, never a part. `durable`:
    also after a power cut, and the new one when this has returned."""
    temporary = path.with_name(f".{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(data)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    temporary.replace(path)
    if durable:
        for directory in (path.parent, path.parent.parent):
            _sync(directory)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def disk_free(path: Path) -> int:
    """Bytes free below `path`."""
    return shutil.disk_usage(path).free


def _in_memory(path: Path) -> bool:
    buffer = ctypes.create_string_buffer(256)
    if _libc.statfs(os.fsencode(path), buffer) != 0:
        return False
    kind = ctypes.cast(buffer, ctypes.POINTER(ctypes.c_long))[0] & 0xFFFFFFFF
    return kind in (_TMPFS_MAGIC, _RAMFS_MAGIC)
