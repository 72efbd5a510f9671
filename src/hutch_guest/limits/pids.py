"""The limit on the number of processes, kept by the sandbox kernel's own control group."""

from __future__ import annotations

import contextlib
import ctypes
import os

_MNT_DETACH = 2
_FILES = {"pids.max": os.O_WRONLY, "pids.current": os.O_RDONLY, "tasks": os.O_WRONLY}


class PidsGroup:
    """A control group for everything the guest starts. The guest itself stays outside, and can always work.

    The group's files are held open and its mount is taken away again: nothing of it shows in the sandbox. Root can
    find a way out of the group; then the host's own limit on the sandbox stands behind it.
    """

    def __init__(self, mount_point: str) -> None:
        self._mount_point = mount_point
        self._files: dict[str, int] = {}
        self.limit = 0

    def create(self) -> bool:
        """Make the group; False where the kernel has no such controller."""
        if self._files:
            return True
        libc = ctypes.CDLL(None, use_errno=True)
        point = os.fsencode(self._mount_point)
        os.makedirs(self._mount_point, exist_ok=True)
        try:
            if libc.mount(b"none", point, b"cgroup", ctypes.c_ulong(0), b"pids") != 0:
                return False
            try:
                self._open(os.path.join(self._mount_point, "sandbox"))
            finally:
                libc.umount2(point, _MNT_DETACH)
        finally:
            with contextlib.suppress(OSError):
                os.rmdir(self._mount_point)
        return bool(self._files)

    def _open(self, path: str) -> None:
        os.makedirs(path, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            self._files = {
                name: os.open(os.path.join(path, name), flags | os.O_CLOEXEC) for name, flags in _FILES.items()
            }

    def set_limit(self, count: int) -> None:
        """How many processes and threads there may be."""
        os.pwrite(self._files["pids.max"], b"%d" % count, 0)
        self.limit = count

    def join(self) -> None:
        """Put the calling thread into the group: what it starts is born there."""
        os.pwrite(self._files["tasks"], b"0", 0)

    def current(self) -> int:
        """How many there are."""
        try:
            return int(os.pread(self._files["pids.current"], 32, 0) or 0)
        except (KeyError, OSError, ValueError):
            return 0
