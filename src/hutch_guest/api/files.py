"""`/hutch/files`, `/hutch/extract`, `/hutch/collect`: bytes in and out, streamed both ways."""

from __future__ import annotations

import re

from hutch_guest.errors import InvalidPath, InvalidRequest
from hutch_guest.files.download import respond
from hutch_guest.files.entries import Entry
from hutch_guest.files.paths import resolve
from hutch_guest.files.upload import Upload, receive
from hutch_guest.files.work import BodyReader, StreamWriter, in_thread
from hutch_guest.guest import Guest
from hutch_guest.http.messages import Request, Response, json_response


def target_path(guest: Guest, request: Request) -> str:
    """The absolute path that the query means."""
    path = request.query.get("path")
    if not path:
        raise InvalidRequest("path is missing", field="path")
    return resolve(path, guest.account(request.query.get("user")))


async def download(guest: Guest, request: Request) -> Response:
    """Read a file (with ranges)."""
    return await respond(target_path(guest, request), request)


async def upload(guest: Guest, request: Request) -> Response:
    """Write a file; answers its entry. With `offset` it is written in place from there on."""
    account = guest.account(request.query.get("user"))
    path = target_path(guest, request)
    if request.query["path"].endswith("/"):
        raise InvalidPath(f"path '{path}' is a directory")
    mode, offset = _number(request, "mode", 8), _number(request, "offset", 10)
    if mode is not None and mode > 0o7777:
        raise InvalidRequest("mode is not an octal file mode", field="mode")
    target = Upload(path, account, mode, offset)
    await receive(request.body, target, announced_length(request))
    return json_response(Entry(target.path).to_json())


async def extract(guest: Guest, request: Request) -> Response:
    """Unpack the tar stream in the body into a directory."""
    from hutch_guest.files.extract import extract as unpack

    account = guest.account(request.query.get("user"))
    reader = BodyReader(request.body)
    result = await in_thread(unpack, reader, target_path(guest, request), account)
    while await request.body.read():  # whatever stands after the end of the archive
        pass
    return json_response(result)


async def collect(guest: Guest, request: Request) -> Response:
    """Pack the files that match into a tar stream."""
    from hutch_guest.files.collect import pack, select

    raw = await request.json()
    patterns = raw.get("globs")
    if not isinstance(patterns, list) or not all(isinstance(one, str) for one in patterns) or len(patterns) > 1000:
        raise InvalidRequest("globs is not a list of texts", field="globs")
    limit = raw.get("max_bytes")
    if limit is not None and (not isinstance(limit, int) or limit < 0):
        raise InvalidRequest("max_bytes is not a number", field="max_bytes")
    base = raw.get("base") or guest.default_workdir or "~"
    if not isinstance(base, str):
        raise InvalidRequest("base is not a path", field="base")
    base = resolve(base, guest.account(raw.get("user")))
    paths = await in_thread(select, base, patterns, limit)
    headers = {"X-Hutch-Files": str(len(paths))}
    stream = StreamWriter().stream(lambda out: pack(out, base, paths))
    return Response(200, stream, "application/x-tar", headers)


def announced_length(request: Request) -> int | None:
    """The body's length, if it was announced."""
    length = request.headers.get("content-length")
    return int(length) if length else None


_NUMBER = re.compile(r"[0-9]{1,18}\Z")


def _number(request: Request, name: str, base: int) -> int | None:
    text = request.query.get(name)
    if not text:
        return None
    try:
        if not _NUMBER.match(text):
            raise ValueError
        return int(text, base)
    except ValueError:
        raise InvalidRequest(f"{name} is not a number", field=name) from None
