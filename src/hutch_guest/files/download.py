"""Reading a file into a response, whole or a range of it."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import AsyncGenerator

from hutch_guest.errors import GuestError, InvalidPath, RangeNotSatisfiable, from_os_error
from hutch_guest.files.work import BLOCK, in_thread
from hutch_guest.http.messages import Request, Response

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})\Z")


async def respond(path: str, request: Request) -> Response:
    """The file as a response. Files that know no size (below /proc) are read to their end."""
    fd, found = open_regular(path)
    try:
        size = found.st_size
        headers = {"Accept-Ranges": "bytes"}
        span = parse_range(request.headers.get("range"), size)
    except BaseException:
        os.close(fd)
        raise
    if size == 0:
        return await _unsized(fd, headers)
    start, end = span or (0, size)
    if span is not None:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    stream = _read(fd, start, end)
    return Response(206 if span else 200, stream, "application/octet-stream", headers, length=end - start)


def open_regular(path: str) -> tuple[int, os.stat_result]:
    """Open a file for reading; directories, pipes and devices are refused."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except (OSError, ValueError) as error:
        raise from_os_error(error if isinstance(error, OSError) else OSError(22, str(error)), path) from error
    found = os.fstat(fd)
    if stat.S_ISREG(found.st_mode):
        return fd, found
    os.close(fd)
    raise InvalidPath(f"path '{path}' is {'a directory' if stat.S_ISDIR(found.st_mode) else 'not a regular file'}")


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Start and end (exclusive) of a single range; None for the whole file."""
    match = _RANGE.match(header.strip()) if header else None
    if match is None or match[0] == "bytes=-":
        return None
    if not match[1]:
        start, end = max(size - int(match[2]), 0), size
    else:
        start, end = int(match[1]), min(int(match[2]) + 1, size) if match[2] else size
    if start >= end:
        raise RangeNotSatisfiable(f"range {header} is outside the file's {size} bytes")
    return start, end


async def _unsized(fd: int, headers: dict[str, str]) -> Response:
    """A file of size 0, or one that makes its content up as it is read."""
    try:
        first = await in_thread(os.read, fd, BLOCK)
    except OSError as error:
        os.close(fd)
        raise from_os_error(error, "file") from error
    if not first:
        os.close(fd)
        return Response(200, b"", "application/octet-stream", headers)

    async def rest() -> AsyncGenerator[bytes, None]:
        try:
            block = first
            while block:
                yield block
                block = await in_thread(os.read, fd, BLOCK)
        finally:
            os.close(fd)

    return Response(200, rest(), "application/octet-stream", headers)


async def _read(fd: int, position: int, end: int) -> AsyncGenerator[bytes, None]:
    try:
        while position < end:
            block = await in_thread(os.pread, fd, min(BLOCK, end - position), position)
            if not block:  # it was cut meanwhile: the promised length cannot be kept
                raise GuestError("the file became shorter while it was read")
            position += len(block)
            yield block
    finally:
        os.close(fd)
