"""Let an unprivileged user reach chosen paths that lie below closed directories, and nothing else there.

A checkout in /root (mode 0700) cannot be traversed by the server's user, and Python imports lazily, so importing
everything before dropping privileges is not enough. Instead the process takes a mount namespace of its own, covers
each closed directory with an empty read-only tmpfs, and binds the needed paths back at the very same places. So
`sys.path`, the venv's links and `.pth` files stay right, and the rest of the closed directory is gone from sight.
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

CLONE_NEWNS = 0x00020000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND = 1, 2, 4, 32, 4096
MS_REC, MS_SLAVE = 16384, 1 << 19

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Need:
    """A path that the user must reach."""

    path: Path
    writable: bool = False


@dataclass(frozen=True)
class _Bind:
    source: Path
    target: Path
    writable: bool


def closed_ancestor(path: Path, uid: int, gid: int) -> Path | None:
    """The topmost directory above `path` that the user may not traverse."""
    for parent in reversed(path.parents):
        if not _traversable(parent.stat(), uid, gid):
            return parent
    return None


def open_paths(needs: Iterable[Need], uid: int, gid: int) -> bool:
    """Make `needs` reachable for the user. False when they already are, and nothing was changed.

    Raises `OSError` where mount namespaces are not to be had (a container without CAP_SYS_ADMIN).
    """
    closed, binds = _plan(needs, uid, gid)
    if not closed:
        return False
    _call("unshare", _libc.unshare(CLONE_NEWNS))
    _mount(None, "/", None, MS_REC | MS_SLAVE)  # the host must not see ours; we must not pin what it unmounts
    sources = {bind.source: os.open(bind.source, os.O_PATH) for bind in binds}  # before they are covered
    try:
        for directory in closed:
            _mount("tmpfs", str(directory), "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=1m")
        for bind in binds:
            _bind(sources[bind.source], bind)
        for directory in closed:
            _mount(None, str(directory), None, MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV)
    finally:
        for fd in sources.values():
            os.close(fd)
    return True


def _plan(needs: Iterable[Need], uid: int, gid: int) -> tuple[list[Path], list[_Bind]]:
    """The directories to cover (none inside another), and what to bind into them, outer paths first."""
    closed: set[Path] = set()
    binds: dict[Path, _Bind] = {}
    for need in needs:
        source = need.path.resolve()
        for path in (need.path, source):  # the path as it is written may lead through links inside a closed directory
            directory = closed_ancestor(path, uid, gid)
            if directory is None:
                continue
            real = directory.resolve()
            closed.add(real)
            target = real / path.relative_to(directory)
            binds[target] = _Bind(source, target, need.writable)
    outermost = [path for path in closed if not any(other in path.parents for other in closed)]
    return sorted(outermost), [binds[target] for target in sorted(binds)]


def _traversable(status: os.stat_result, uid: int, gid: int) -> bool:
    if status.st_uid == uid:
        return bool(status.st_mode & stat.S_IXUSR)
    if status.st_gid == gid:
        return bool(status.st_mode & stat.S_IXGRP)
    return bool(status.st_mode & stat.S_IXOTH)


def _bind(source: int, bind: _Bind) -> None:
    if stat.S_ISDIR(os.fstat(source).st_mode):
        if not bind.target.exists():  # it does where it lies inside a path that is bound already
            _make_directories(bind.target)
    elif not bind.target.exists():
        _make_directories(bind.target.parent)
        bind.target.touch()
    _mount(f"/proc/self/fd/{source}", str(bind.target), None, MS_BIND)
    if not bind.writable:
        _mount(None, str(bind.target), None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)


def _make_directories(path: Path) -> None:
    for directory in (*reversed(path.parents), path):
        if not directory.exists():
            directory.mkdir()
            directory.chmod(0o755)  # whatever the umask


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    encoded = [None if text is None else os.fsencode(text) for text in (source, target, kind)]
    status = _libc.mount(*encoded, ctypes.c_ulong(flags), None if data is None else data.encode())
    _call(f"mount on {target}", status)


def _call(what: str, status: int) -> None:
    if status != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
