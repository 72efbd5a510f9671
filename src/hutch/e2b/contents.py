"""The files of a volume, with the volume's own token: `/volumecontent/{id}`."""

from __future__ import annotations

import asyncio
import errno
import hmac
import sqlite3
import stat
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import Field
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from hutch.control.audit import token_call
from hutch.e2b.bodies import Body
from hutch.e2b.context import Server, body_of
from hutch.errors import (
    AlreadyExists,
    Conflict,
    DiskFull,
    FileMissing,
    HutchError,
    InternalError,
    InvalidPath,
    Unauthorized,
    VolumeNotFound,
)
from hutch.volumes import Volume, paths
from hutch.volumes.tree import Attributes

_BLOCK = 1 << 20
_USER, _FILE, _DIRECTORY = 1000, 0o644, 0o755
"""What is made without saying whose, and with which rights: the user's that commands in a sandbox run as."""
_MAX_DEPTH = 1000
_ERRORS: dict[int, type[HutchError]] = {
    errno.ENOENT: FileMissing,
    errno.ESTALE: FileMissing,
    errno.ENOTDIR: FileMissing,
    errno.EEXIST: AlreadyExists,
    errno.ENOSPC: DiskFull,
    errno.EFBIG: DiskFull,
    errno.EBUSY: Conflict,
}
_KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink"}


class Metadata(Body):
    """`PATCH .../path`, and the query of what makes something."""

    uid: int | None = Field(None, ge=0, lt=1 << 32)
    gid: int | None = Field(None, ge=0, lt=1 << 32)
    mode: int | None = Field(None, ge=0, le=0o7777)
    force: bool = False


@dataclass(frozen=True)
class Content:
    """One call on one path of an open volume."""

    request: Request
    volume: Volume
    parts: list[bytes]

    @property
    def metadata(self) -> Metadata:
        """Of the query. Raises pydantic's `ValidationError`."""
        return Metadata.model_validate(dict(self.request.query_params))


Handler = Callable[[Content, AsyncExitStack], Awaitable[Response]]


def endpoint(server: Server, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    """Checks the token and opens the volume, until the answer is sent."""

    async def answer(request: Request) -> Response:
        async with AsyncExitStack() as opened:
            volume = await opened.enter_async_context(_open(server, request))
            with _told(request):
                content = Content(request, volume, paths.parts_of(request.query_params.get("path", "/")))
                response = await handler(content, opened)
            if isinstance(response, StreamingResponse):
                response.body_iterator = _closing(response.body_iterator, opened.pop_all())
            return response

    return answer


async def list_dir(content: Content, _: AsyncExitStack) -> Response:
    """`GET .../dir`."""
    text = content.request.query_params.get("depth", "1")
    depth = int(text) if text.isascii() and text.isdigit() and len(text) < 9 else 0
    if depth < 1:
        raise InvalidPath("depth is not a positive number", field="depth")
    found = await content.volume.run(paths.walk, content.volume.tree, content.parts, min(depth, _MAX_DEPTH))
    return JSONResponse([_entry(path, each) for path, each in found])


async def make_dir(content: Content, _: AsyncExitStack) -> Response:
    """`POST .../dir`."""
    told, tree = content.metadata, content.volume.tree
    mode, uid, gid = _or(told.mode, _DIRECTORY), _or(told.uid, _USER), _or(told.gid, _USER)

    def make() -> Attributes:
        if told.force or not content.parts:
            return paths.make_directories(tree, content.parts, mode, uid, gid)
        parent = paths.find(tree, content.parts[:-1])
        return tree.make(parent.ino, content.parts[-1], stat.S_IFDIR | mode, uid, gid)

    return JSONResponse(_entry(paths.show(content.parts), await content.volume.run(make)), 201)


async def stat_path(content: Content, _: AsyncExitStack) -> Response:
    """`GET .../path`."""
    found = await content.volume.run(paths.find, content.volume.tree, content.parts)
    return JSONResponse(_entry(paths.show(content.parts), found))


async def change_path(content: Content, _: AsyncExitStack) -> Response:
    """`PATCH .../path`."""
    told, tree = await body_of(content.request, Metadata), content.volume.tree

    def change() -> Attributes:
        ino = paths.find(tree, content.parts).ino
        tree.set_attributes(ino, told.mode, told.uid, told.gid)
        return tree.get(ino)

    return JSONResponse(_entry(paths.show(content.parts), await content.volume.run(change)))


async def remove_path(content: Content, _: AsyncExitStack) -> Response:
    """`DELETE .../path`."""
    await content.volume.run(paths.remove, content.volume.tree, content.parts)
    return Response(status_code=204)


async def read_file(content: Content, opened: AsyncExitStack) -> Response:
    """`GET .../file`: as it is when it is asked for, if nobody writes to it meanwhile."""
    tree = content.volume.tree

    def begin() -> tuple[Attributes, bytes]:
        found = paths.find(tree, content.parts)
        first = tree.read(found.ino, 0, _BLOCK)
        tree.hold(found.ino)
        return found, first

    found, first = await content.volume.run(begin)
    opened.push_async_callback(content.volume.run, tree.release, found.ino)
    headers = {"Content-Length": str(found.size)}
    return StreamingResponse(_blocks(content.volume, found, first), 200, headers, "application/octet-stream")


async def write_file(content: Content, opened: AsyncExitStack) -> Response:
    """`PUT .../file`: it appears whole, in the place of what was there."""
    told, volume, tree = content.metadata, content.volume, content.volume.tree
    if not content.parts:
        raise InvalidPath("the root of a volume is a directory")
    content.request.scope["state"]["unbounded_body"] = True
    uid, gid = _or(told.uid, _USER), _or(told.gid, _USER)

    def parent() -> Attributes:
        if told.force:
            return paths.make_directories(tree, content.parts[:-1], _DIRECTORY, uid, gid)
        return paths.find(tree, content.parts[:-1])

    await volume.run(parent)  # rather now than after the last byte
    draft = await volume.run(tree.draft, _or(told.mode, _FILE), uid, gid)
    opened.push_async_callback(volume.run, tree.release, draft.ino)
    await _fill(content.request, volume, draft.ino)

    def publish() -> Attributes:
        return tree.publish(draft.ino, parent().ino, content.parts[-1])

    return JSONResponse(_entry(paths.show(content.parts), await volume.run(publish)), 201)


async def _fill(request: Request, volume: Volume, ino: int) -> None:
    pending, at = bytearray(), 0
    try:
        async for piece in request.stream():
            pending += piece
            if len(pending) >= _BLOCK:
                at += await volume.run(volume.tree.write, ino, at, bytes(pending))
                pending.clear()
    except ClientDisconnect as error:
        raise InvalidPath("the connection was cut in the middle of the file") from error
    if pending:
        await volume.run(volume.tree.write, ino, at, bytes(pending))


async def _blocks(volume: Volume, found: Attributes, first: bytes) -> AsyncGenerator[bytes, None]:
    """So many bytes as were announced; a file that has become shorter cuts the connection."""
    at = len(first)
    yield first
    while at < found.size:
        block = await volume.run(volume.tree.read, found.ino, at, min(_BLOCK, found.size - at))
        if not block:
            raise ConnectionError("the file was cut while it was read")
        at += len(block)
        yield block


async def _closing(chunks: Any, opened: AsyncExitStack) -> AsyncGenerator[Any, None]:
    try:
        async for chunk in chunks:
            yield chunk
    finally:
        await asyncio.shield(asyncio.ensure_future(opened.aclose()))


@asynccontextmanager
async def _open(server: Server, request: Request) -> AsyncIterator[Volume]:
    """The volume of the path, for who has its token. Whether there is none, or another's, looks the same."""
    volumes, id = server.control.volumes, str(request.path_params["id"])
    given = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
    if not hmac.compare_digest(given.encode(), volumes.token(id).encode()):
        raise Unauthorized("this is not the token of the volume", hint="`Volume.connect` has it.")
    row = await volumes.by_id(id)
    target = f"{request.url.path}?{request.url.query}"
    await server.control.store.audit.record(token_call(row.org, "volume", row.id, request.method, target))
    async with volumes.using(row.id, row.org) as volume:
        yield volume


class _told:
    """What a file system says, as an error of ours."""

    def __init__(self, request: Request) -> None:
        self._path = request.query_params.get("path", "/")[:200]

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            told = _ERRORS.get(error.errno or 0, InvalidPath)
            raise told(f"{self._path}: {error.strerror or error}") from error
        if isinstance(error, sqlite3.ProgrammingError | RuntimeError):
            raise VolumeNotFound("the volume was removed meanwhile") from error
        if isinstance(error, sqlite3.Error):
            raise InternalError("the volume cannot be read or written") from error


def _entry(path: str, found: Attributes) -> dict[str, Any]:
    """`VolumeEntryStat`."""
    shown = {
        "name": path.rpartition("/")[2] or "/",
        "type": _KINDS.get(stat.S_IFMT(found.mode), "unknown"),
        "path": path,
        "size": found.size,
        "mode": stat.S_IMODE(found.mode),
        "uid": found.uid,
        "gid": found.gid,
        "atime": _moment(found.atime),
        "mtime": _moment(found.mtime),
        "ctime": _moment(found.ctime),
    }
    return shown | ({"target": found.target.decode(errors="replace")} if found.target is not None else {})


def _moment(nanoseconds: int) -> str:
    at = datetime.fromtimestamp(max(0, min(nanoseconds, 1 << 62)) / 1e9, UTC)
    return at.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _or(given: int | None, default: int) -> int:
    return default if given is None else given
