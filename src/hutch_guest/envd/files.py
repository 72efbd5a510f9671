"""envd's `/files`: download, upload (multipart or raw), and joining files.

Downloads are not compressed: every client accepts plain bytes, and inside one machine gzip only costs time.
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator
from typing import Any

from hutch_guest.access import check_file_access, is_signed
from hutch_guest.accounts import Account, UnknownUser
from hutch_guest.envd.connect import caller
from hutch_guest.envd.multipart import Multipart, boundary_of
from hutch_guest.errors import InvalidPath, InvalidRequest, Unauthorized
from hutch_guest.files.download import open_regular, respond
from hutch_guest.files.entries import Entry, write_metadata
from hutch_guest.files.paths import resolve
from hutch_guest.files.upload import BATCH, Piece, Upload, check_space
from hutch_guest.files.work import BLOCK, in_thread
from hutch_guest.guest import Guest
from hutch_guest.http.messages import Body, Request, Response, json_response

_METADATA = "x-metadata-"
_PRINTABLE = re.compile(r"[\x20-\x7e]*\Z")
_MAX_KEY, _MAX_METADATA = 246, 4096


def _account(guest: Guest, request: Request) -> Account:
    name = request.query.get("username")
    try:
        return guest.account(name) if name or is_signed(request) else caller(guest, request)
    except UnknownUser as error:
        raise Unauthorized(error.message) from error


async def download(guest: Guest, request: Request) -> Response:
    """Read a file."""
    import mimetypes
    from urllib.parse import quote

    check_file_access(request, guest.tokens(), "read")
    path = resolve(request.query.get("path", ""), _account(guest, request))
    response = await respond(path, request)
    name = os.fsencode(os.path.basename(path))
    kind = mimetypes.guess_type(path)[0] or "application/octet-stream"
    response.headers["Content-Type"] = kind
    response.headers["Content-Disposition"] = f"inline; filename*=utf-8''{quote(name)}"
    response.headers["Vary"] = "Accept-Encoding"
    return response


async def upload(guest: Guest, request: Request) -> Response:
    """Write one file (raw body), or several (multipart)."""
    check_file_access(request, guest.tokens(), "write")
    account = _account(guest, request)
    metadata = _metadata(request)
    path = request.query.get("path", "")
    kind = request.headers.get("content-type", "")
    body = _Content(request)
    if kind.lower().startswith("multipart/form-data"):
        written = await _write_parts(Multipart(body.read, boundary_of(kind)), path, account, metadata)
    elif kind.lower().startswith("application/octet-stream"):
        if not path:
            raise InvalidRequest("path is missing")
        if not body.packed:
            length = request.headers.get("content-length")
            check_space(resolve(path, account), int(length) if length else None)
        written = [await _write(_pieces(body), resolve(path, account), account, metadata)]
    else:
        raise InvalidRequest(f"unsupported content type '{kind[:100]}'")
    return json_response(written)


async def _write_parts(parts: Multipart, path: str, account: Account, metadata: dict[str, str]) -> list[dict[str, Any]]:
    written: list[dict[str, Any]] = []
    seen: set[str] = set()
    while (part := await parts.next_part()) is not None:
        if part.get("name") != "file":
            continue
        target = resolve(path or part.get("filename", ""), account)
        if target in seen:
            raise InvalidRequest(f"you cannot upload multiple files to the same path '{target}' in one request")
        seen.add(target)
        written.append(await _write(parts.content(), target, account, metadata))
    if not written:
        raise InvalidRequest("the body has no part named 'file'")
    return written


async def _write(pieces: AsyncIterator[Piece], path: str, account: Account, metadata: dict[str, str]) -> dict[str, Any]:
    async with Upload(path, account) as target:
        waiting: list[Piece] = []
        size = 0
        async for piece in pieces:
            waiting.append(piece)
            size += len(piece)
            if size >= BATCH:
                await target.write(waiting)
                waiting, size = [], 0
        await target.write(waiting)
    await in_thread(write_metadata, target.path, metadata)
    result: dict[str, Any] = {"name": os.path.basename(path), "type": "file", "path": path}
    return result | {"metadata": metadata} if metadata else result


def _metadata(request: Request) -> dict[str, str]:
    found = {k[len(_METADATA) :]: v for k, v in request.headers.items() if k.startswith(_METADATA)}
    size = sum(len(key) + len(value) for key, value in found.items())
    for key, value in found.items():
        if not key or len(key) > _MAX_KEY or not _PRINTABLE.match(key) or not _PRINTABLE.match(value):
            raise InvalidRequest(f"invalid metadata '{key[:64]}'")
    if size > _MAX_METADATA:
        raise InvalidRequest(f"metadata is larger than {_MAX_METADATA} bytes")
    return found


class _Content:
    """The request's body, unpacked if it is gzipped."""

    def __init__(self, request: Request) -> None:
        encoding = request.headers.get("content-encoding", "identity").lower()
        if encoding not in ("identity", "gzip", ""):
            raise InvalidRequest(f"unsupported content encoding '{encoding[:32]}'")
        self.packed = encoding == "gzip"
        self._body: Body = request.body
        self._left = b""
        if self.packed:
            import zlib

            self._inflater = zlib.decompressobj(31)
            self._error = zlib.error

    async def read(self) -> bytes:
        """The next piece; empty at the end."""
        if not self.packed:
            return await self._body.read()
        while True:
            packed = self._left or await self._body.read()
            if not packed:
                if not self._inflater.eof:
                    raise InvalidRequest("the gzip stream ends in the middle")
                return b""
            try:
                data = self._inflater.decompress(packed, BLOCK)
            except self._error as error:
                raise InvalidRequest("the body is not gzip") from error
            self._left = self._inflater.unconsumed_tail
            if data:
                return data


async def _pieces(body: _Content) -> AsyncIterator[bytes]:
    while piece := await body.read():
        yield piece


async def compose(guest: Guest, request: Request) -> Response:
    """Join files into one."""
    raw = await request.json()
    account = guest.account(raw.get("username"))
    sources, destination = raw.get("source_paths"), raw.get("destination")
    if not isinstance(sources, list) or not all(isinstance(one, str) for one in sources) or not sources:
        raise InvalidRequest("source_paths is not a list of paths")
    if not isinstance(destination, str) or not destination:
        raise InvalidPath("destination is missing")
    target = Upload(resolve(destination, account), account)
    async with target:
        for source in sources:
            fd, _ = open_regular(resolve(source, account))
            try:
                while block := await in_thread(os.read, fd, BLOCK):
                    await target.write([block])
            finally:
                os.close(fd)
    return json_response(Entry(target.path).to_envd())
