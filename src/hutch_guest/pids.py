"""The limit on processes and threads, enforced inside by gVisor's own pids controller.

What runs for the user is in one group with a maximum: a fork beyond it fails with EAGAIN, and the guest, outside the
group, goes on working. The group's files are held open and its mount is taken away again, so that nothing of it shows
inside. (Root can find a way out of the group; then the host's own limit on the sandbox stands behind it.)

A child belongs to the group of the thread that forks it. So: either call `enter()` once in each thread that starts
processes, and they are in the group from their first instruction; or `place(pid)` after a fork.
"""

import ctypes
import os
import tempfile

MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)
_files: "dict[str, int]" = {}


def limit(maximum: int) -> None:
    """Allow so many processes and threads in the group; may be called again. Raises `OSError` where the sandbox's
    kernel has no pids controller."""
    if not _files:
        _open()
    os.pwrite(_files["pids.max"], b"%d" % maximum, 0)


def enter() -> None:
    """Put the calling thread into the group: what it forks from now on is in it. Nothing happens before `limit`."""
    if _files:
        os.pwrite(_files["tasks"], b"0", 0)


def place(pid: int) -> None:
    """Put a process into the group, with all its threads. Raises `OSError` when it is gone."""
    if _files:
        os.pwrite(_files["cgroup.procs"], b"%d" % pid, 0)


def count() -> int:
    """Processes and threads in the group."""
    return int(os.pread(_files["pids.current"], 32, 0)) if _files else 0


def _open() -> None:
    directory = tempfile.mkdtemp(prefix=".hutch-pids-", dir="/dev/shm")
    try:
        if _libc.mount(b"pids", directory.encode(), b"cgroup", ctypes.c_ulong(0), b"pids") != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"pids controller: {os.strerror(number)}")
        try:
            group = os.path.join(directory, "hutch")
            os.makedirs(group, exist_ok=True)
            for name in ("pids.max", "pids.current", "cgroup.procs", "tasks"):
                flags = os.O_RDONLY if name == "pids.current" else os.O_RDWR
                _files[name] = os.open(os.path.join(group, name), flags | os.O_CLOEXEC)
        finally:
            _libc.umount2(directory.encode(), MNT_DETACH)
    finally:
        os.rmdir(directory)
