"""Files of a recipe's own: a folder beside `template.toml` that is laid into the image."""

from __future__ import annotations

import hashlib
import os
import stat
import tarfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from hutch.errors import InvalidTemplate

_IGNORED = "__pycache__"

_Seen = tuple[tuple[str, int, int, int], ...]
"""Path, mode, size, time of change (ns) of each."""


def find(recipe: Path, name: str) -> Path:
    """The folder that `files` of this recipe names. Raises `InvalidTemplate`."""
    folder = recipe.parent / name
    if not folder.is_dir() or ".." in Path(name).parts or Path(name).is_absolute():
        raise InvalidTemplate(
            f"{recipe}: files: {name!r} is no folder beside template.toml", file=str(recipe), field="files"
        )
    return folder


def digest(folder: Path) -> str:
    """A hash over names, modes and contents. Those that look as before are not read again."""
    seen = [(name, info.st_mode, info.st_size, info.st_mtime_ns) for name, info in _walk(folder)]
    return _digest(folder, tuple(seen))


def pack(folder: Path, archive: Path) -> None:
    """Write all of it into an archive, as root's. Blocking."""
    with tarfile.open(archive, "w") as tar:
        for name, _ in _walk(folder):
            tar.add(folder / name, name, recursive=False, filter=_as_roots)


def unpack_command(archive: str) -> str:
    """The shell command that lays it into the root file system; directories that are there stay as they are."""
    return f"tar -x --no-overwrite-dir -p -f {archive} -C /"


@lru_cache(maxsize=64)
def _digest(folder: Path, seen: _Seen) -> str:
    total = hashlib.sha256()
    for name, mode, _, _ in seen:
        path = folder / name
        content = b""
        if stat.S_ISLNK(mode):
            content = os.fsencode(os.readlink(path))
        elif stat.S_ISREG(mode):
            content = path.read_bytes()
        total.update(f"{name}\0{stat.S_IFMT(mode)}\0{mode & 0o111:o}\0{len(content)}\0".encode() + content)
    return total.hexdigest()


def _walk(folder: Path) -> list[tuple[str, os.stat_result]]:
    """All in it, directories before what is in them; names from here. (`pathlib` takes five times as long, and every
    create comes here.)"""
    return sorted(_found(str(folder), ""), key=lambda each: each[0].split("/"))


def _found(folder: str, prefix: str) -> Iterator[tuple[str, os.stat_result]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name != _IGNORED:
                name = prefix + entry.name
                yield name, entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    yield from _found(entry.path, name + "/")


def _as_roots(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Whoever has checked the recipe out, and however: only whether a file can be run is the recipe's."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    entry.mode = 0o755 if entry.isdir() or entry.mode & 0o111 else 0o644
    return entry
