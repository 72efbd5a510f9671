"""Files of one sandbox, through its guest. Bytes are streamed; answers are checked."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from hutch.errors import GuestUnavailable
from hutch.fleet.transport import Answer
from hutch.model import FileInfo

_UPLOAD_TIMEOUT = 600.0
"""For the answer after the last byte: a sync of gigabytes may take its time."""
_TYPES = {"FILE_TYPE_FILE": "file", "FILE_TYPE_DIRECTORY": "directory", "FILE_TYPE_SYMLINK": "symlink"}


@dataclass(frozen=True)
class FileRange:
    """A file, or a part of it, on its way from the guest."""

    answer: Answer
    start: int
    size: int | None
    """Bytes that come."""
    total: int | None
    """Bytes of the whole file."""


class GuestFiles:
    """`GuestClient.files`. Paths: absolute, or relative to the user's home; `user` None is the template's."""

    def __init__(
        self, open_: Callable[..., Awaitable[Answer]], json_: Callable[..., Awaitable[dict[str, Any]]]
    ) -> None:
        self._open = open_
        self._json = json_

    async def read(self, path: str, user: str | None = None, start: int = 0, end: int | None = None) -> FileRange:
        """Bytes `start` to `end` (exclusive)."""
        whole = start == 0 and end is None
        headers = {} if whole else {"Range": f"bytes={start}-{'' if end is None else end - 1}"}
        answer = await self._open("GET", "/hutch/files", query={"path": path, "user": user}, headers=headers)
        size = _number(answer.headers.get("content-length"))
        if answer.status != 206:
            return FileRange(answer, 0, size, size)
        _, _, total = answer.headers.get("content-range", "").rpartition("/")
        return FileRange(answer, start, size, _number(total))

    async def write(
        self,
        path: str,
        body: bytes | AsyncIterator[bytes],
        user: str | None = None,
        mode: int | None = None,
        size: int | None = None,
    ) -> FileInfo:
        """Write the file whole or not at all, with its parent directories. With its `size`, one that has no room is
        refused before it is sent."""
        query = {"path": path, "user": user, "mode": None if mode is None else f"{mode:04o}"}
        headers = {"Content-Type": "application/octet-stream"}
        found = await self._json(
            "PUT", "/hutch/files", query=query, headers=headers, body=body, length=size, read_timeout=_UPLOAD_TIMEOUT
        )
        return file_info(found)

    async def stat(self, path: str, user: str | None = None) -> FileInfo:
        return entry_info((await self._call("Stat", {"path": path}, user)).get("entry"))

    async def entries(self, path: str, depth: int = 1, user: str | None = None) -> list[FileInfo]:
        entries = (await self._call("ListDir", {"path": path, "depth": depth}, user)).get("entries", [])
        if not isinstance(entries, list):
            raise GuestUnavailable("the sandbox's guest answered nonsense")
        return [entry_info(entry) for entry in entries]

    async def mkdir(self, path: str, user: str | None = None) -> FileInfo:
        """Raises `AlreadyExists` when the directory is there."""
        return entry_info((await self._call("MakeDir", {"path": path}, user)).get("entry"))

    async def move(self, source: str, destination: str, user: str | None = None) -> FileInfo:
        found = await self._call("Move", {"source": source, "destination": destination}, user)
        return entry_info(found.get("entry"))

    async def remove(self, path: str, user: str | None = None) -> None:
        """Raises `FileMissing` when there is nothing (which the guest's own call takes for success)."""
        await self.stat(path, user)
        await self._call("Remove", {"path": path}, user)

    async def extract(self, path: str, body: AsyncIterator[bytes], user: str | None = None) -> None:
        """Unpack a tar stream below `path`."""
        query = {"path": path, "user": user}
        headers = {"Content-Type": "application/x-tar"}
        await self._json(
            "POST", "/hutch/extract", query=query, headers=headers, body=body, read_timeout=_UPLOAD_TIMEOUT
        )

    async def collect(self, base: str, globs: list[str], max_bytes: int, user: str | None = None) -> Answer:
        """A tar stream of the files below `base` that match."""
        body = json.dumps({"base": base, "globs": globs, "max_bytes": max_bytes, "user": user}).encode()
        headers = {"Content-Type": "application/json"}
        return await self._open("POST", "/hutch/collect", headers=headers, body=body, read_timeout=120.0)

    async def _call(self, method: str, message: dict[str, Any], user: str | None) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        if user is not None:
            headers["Authorization"] = "Basic " + base64.b64encode(f"{user}:".encode()).decode()
        path = f"/filesystem.Filesystem/{method}"
        return await self._json("POST", path, headers=headers, body=json.dumps(message).encode())


def file_info(found: Any) -> FileInfo:
    """The guest's own form of a file (what it answers to an upload), checked."""
    if not isinstance(found, dict):
        raise GuestUnavailable("the sandbox's guest answered nonsense")
    return _checked(found, str(found.get("type")), found.get("modified_at"), found.get("target"))


def entry_info(found: Any) -> FileInfo:
    """An `EntryInfo` of E2B's protocol, checked."""
    if not isinstance(found, dict):
        raise GuestUnavailable("the sandbox's guest answered nonsense")
    kind = "symlink" if found.get("isSymlink") is True else _TYPES.get(str(found.get("type")), "other")
    return _checked(found, kind, found.get("modifiedTime"), found.get("symlinkTarget"))


def _checked(found: dict[str, Any], kind: str, modified_at: Any, target: Any) -> FileInfo:
    values = {
        "name": _shown(found.get("name")),
        "path": _shown(found.get("path")),
        "type": kind,
        "size": found.get("size", 0),
        "mode": found.get("mode", 0),
        "owner": found.get("owner", ""),
        "group": found.get("group", ""),
        "target": _shown(target) if target is not None else None,
    }
    try:
        return FileInfo.model_validate({**values, "modified_at": modified_at})
    except ValidationError:
        pass  # a file may have a time that no calendar knows
    try:
        return FileInfo.model_validate({**values, "modified_at": 0})
    except ValidationError as error:
        raise GuestUnavailable("the sandbox's guest answered nonsense") from error


def _shown(name: Any) -> Any:
    """Names are bytes in Linux: what is no text is shown with question marks."""
    return name.encode(errors="replace").decode() if isinstance(name, str) else name


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() else None
