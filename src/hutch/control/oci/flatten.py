"""Layers put over one another, and what they come to, in the form in which guests pack what was written."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hutch.control.oci.layers import Budget, Layer, Member
from hutch.errors import InputFailed

FORMAT = 1
"""Raise it when the same image comes to something else."""

_SEGMENT = struct.Struct(">QI")
_END = _SEGMENT.pack(0, 0)
_BLOCK = 1 << 18
_NEEDED = {"dev": 0o755, "etc": 0o755, "proc": 0o755, "run": 0o755, "sys": 0o755, "tmp": 0o1777, "root": 0o700}
"""Directories that a sandbox has to have."""

Tree = dict[str, Member]


def flatten(layers: Sequence[Layer]) -> Tree:
    """What is seen of all layers, the lowest first. Raises `InputFailed`, `PayloadTooLarge`."""
    tree: Tree = {}
    removed: set[str] = set()
    emptied: set[str] = set()
    for number in range(len(layers) - 1, -1, -1):
        layer = layers[number]
        for path, member in layer.members.items():
            _check_way(path, layer)
            if path not in tree and not _hidden(path, tree, removed, emptied):
                tree[path] = _linked(member, layers, number) if member.kind == "hardlink" else member
        removed |= layer.removed
        emptied |= layer.emptied
    _complete(tree)
    return tree


def _check_way(path: str, layer: Layer) -> None:
    """Raise `InputFailed` when a layer itself has something else than a directory on the way: another program would
    follow a link there."""
    end = path.rfind("/")
    while end > 0:
        found = layer.members.get(path[:end])
        if found is not None and found.kind != "directory":
            raise InputFailed(f"the image has {path[:100]!r} below something that is no directory")
        end = path.rfind("/", 0, end)


def _hidden(path: str, tree: Tree, removed: set[str], emptied: set[str]) -> bool:
    """Whether a layer above has taken it away, or has something else than a directory on the way to it."""
    if path in removed or "" in emptied:
        return True
    end = path.rfind("/")
    while end > 0:
        above = path[:end]
        if above in removed or above in emptied:
            return True
        found = tree.get(above)
        if found is not None and found.kind != "directory":
            return True
        end = path.rfind("/", 0, end)
    return False


def _linked(link: Member, layers: Sequence[Layer], number: int) -> Member:
    """The file that a hard link is another name of: it is the layer's own, or one below. Raises `InputFailed`."""
    for below in range(number, -1, -1):
        found = layers[below].members.get(link.target)
        if found is not None and found.kind == "file":
            return found
    raise InputFailed(f"the image has a link to {link.target[:100]!r}, which is no file")


def _complete(tree: Tree) -> None:
    """Make what layers leave unsaid: the directories above their paths, and those that a sandbox needs."""
    plain, unsaid = Member("directory", 0o755, 0, 0, 0), Budget(0)
    for path in list(tree):
        end = path.rfind("/")
        while end > 0:
            found = tree.get(path[:end])
            if found is not None and found.kind != "directory":
                raise InputFailed(f"the image has {path[:100]!r} below something that is no directory")
            if found is None:
                unsaid.enter(path[:end])
                tree[path[:end]] = plain
            end = path.rfind("/", 0, end)
    for name, mode in _NEEDED.items():
        if name not in tree or tree[name].kind != "directory":
            if any(path.startswith(f"{name}/") for path in tree):
                raise InputFailed(f"the image has something below /{name}, which is no directory")
            tree[name] = replace(plain, mode=mode)


def packed(tree: Tree, archives: Sequence[Path], files: dict[str, bytes]) -> Iterator[bytes]:
    """The stream, a piece at a time; `files` are in place of what the image has there. Blocks."""
    yield _line({"env": {}})
    opened = [os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in archives]
    first: dict[tuple[int, int], str] = {}
    try:
        own = {path: Member("file", 0o644, 0, 0, 0, size=len(content)) for path, content in files.items()}
        everything = tree | own
        for path in sorted(everything, key=lambda path: path.split("/")):
            member = everything[path]
            known = first.get((member.layer, member.offset)) if member.kind == "file" and path not in own else None
            if known is not None:
                yield _line({"path": path, "type": "hardlink", "target": known})
                continue
            yield _line(_entry(path, member))
            if path in own:
                yield from _content(iter([files[path]] if files[path] else []))
            elif member.kind == "file":
                first[member.layer, member.offset] = path
                yield from _content(_read(opened[member.layer], member))
        yield _line({"end": True, "entries": len(everything)})
    finally:
        for descriptor in opened:
            os.close(descriptor)


def _entry(path: str, member: Member) -> dict[str, Any]:
    entry: dict[str, Any] = {"path": path, "type": member.kind, "mode": member.mode, "uid": member.uid}
    entry |= {"gid": member.gid, "mtime": member.mtime}
    if member.kind == "file":
        entry["size"] = member.size
    elif member.kind == "symlink":
        entry["target"] = member.target
    return entry


def _content(pieces: Iterator[bytes]) -> Iterator[bytes]:
    offset = 0
    for piece in pieces:
        yield _SEGMENT.pack(offset, len(piece)) + piece
        offset += len(piece)
    yield _END


def _read(archive: int, member: Member) -> Iterator[bytes]:
    done = 0
    while done < member.size:
        piece = os.pread(archive, min(_BLOCK, member.size - done), member.offset + done)
        if not piece:
            raise InputFailed("a layer of the image is shorter than it says")
        yield piece
        done += len(piece)


def _line(entry: dict[str, Any]) -> bytes:
    return json.dumps(entry, separators=(",", ":")).encode() + b"\n"
