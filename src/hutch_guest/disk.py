"""Move into the disk that the host has given: a size-limited file system for everything that is written.

The root file system is read-only. The host names, in HUTCH_DISK, a mount that lies on its disk and has a ceiling;
with an overlay on top of it the whole tree becomes writable, `df /` shows the ceiling, and writing past it is ENOSPC.
To be called first of all by PID 1, before there are threads, children or open files.
"""

import ctypes
import os

MS_BIND = 0x1000
MNT_DETACH = 2
SYS_PIVOT_ROOT = 155
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

_libc = ctypes.CDLL(None, use_errno=True)


class Layers:
    """What the overlay is made of. Nothing else leads to either any more: they are gone from the mounts."""

    __slots__ = ("image", "written")

    def __init__(self, image: int, written: int) -> None:
        self.image = image
        """The root directory of the image, read-only."""
        self.written = written
        """The root directory of all that was written: the overlay's upper layer."""


def enter(disk: str) -> Layers:
    """Make `disk` what all writes below / go to. Raises `OSError`: then the sandbox must not go on."""
    upper, work, merged = (os.path.join(disk, name) for name in ("upper", "work", "merged"))
    for directory in (upper, work, merged):
        os.mkdir(directory)
    os.chmod(upper, os.stat("/").st_mode & 0o7777)
    layers = Layers(os.open("/", _DIRECTORY), os.open(upper, _DIRECTORY))
    _mount("overlay", merged, "overlay", options=f"lowerdir=/,upperdir={upper},workdir={work}")
    _mount("proc", merged + "/proc", "proc")
    _mount("sysfs", merged + "/sys", "sysfs")
    # One by one: a recursive bind of /dev would take the disk's own mount along.
    for device in ("/dev", "/dev/pts", "/dev/shm"):  # noqa: S108
        _mount(device, merged + device, None, MS_BIND)
    os.chdir(merged)
    _check(_libc.syscall(SYS_PIVOT_ROOT, b".", b"."), "pivot_root")
    _check(_libc.umount2(b".", MNT_DETACH), "umount of the old root")
    os.chdir("/")
    os.rmdir(disk)
    return layers


def _mount(source: str, target: str, kind: "str | None", flags: int = 0, options: "str | None" = None) -> None:
    texts = [None if text is None else text.encode() for text in (source, target, kind, options)]
    _check(_libc.mount(texts[0], texts[1], texts[2], ctypes.c_ulong(flags), texts[3]), f"mount {target}")


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
