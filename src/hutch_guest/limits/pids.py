"""The limit on the number of processes, kept by the sandbox kernel's own control group."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading


class PidsGroup:
    """A control group for everything the guest starts. The guest itself stays outside, and can always work."""

    def __init__(self, mount_point: str) -> None:
        self._mount_point = mount_point
        self._path = os.path.join(mount_point, "sandbox")
        self.limit = 0

    def create(self) -> bool:
        """Mount the controller and make the group; False where the kernel has none."""
        if not os.path.isdir(self._path):
            os.makedirs(self._mount_point, exist_ok=True)
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.mount(b"none", self._mount_point.encode(), b"cgroup", ctypes.c_ulong(0), b"pids") != 0:
                return False
            with contextlib.suppress(OSError):
                os.mkdir(self._path)
        return os.path.exists(os.path.join(self._path, "pids.max"))

    def set_limit(self, count: int) -> None:
        """How many processes and threads there may be."""
        self._write("pids.max", str(count))
        self.limit = count

    def join(self) -> None:
        """Put the calling thread into the group: what it starts is born there."""
        self._write("tasks", str(threading.get_native_id()))

    def current(self) -> int:
        """How many there are."""
        try:
            with open(os.path.join(self._path, "pids.current"), encoding="ascii") as file:
                return int(file.read() or 0)
        except (OSError, ValueError):
            return 0

    def _write(self, name: str, value: str) -> None:
        with open(os.path.join(self._path, name), "w", encoding="ascii") as file:
            file.write(value)
