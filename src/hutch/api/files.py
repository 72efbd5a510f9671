"""`/v1/sandboxes/{id}/files`: files, streamed both ways, of any size."""

from __future__ import annotations

import posixpath
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response

from hutch.api.bodies import streamed_body
from hutch.api.deps import ControlDep, OrgDep, SandboxId
from hutch.api.downloads import BINARY, OCTETS, TAR, download, file_headers, unsatisfiable
from hutch.api.problems import MEDIA_TYPE, documented
from hutch.api.ranges import Unsatisfiable, parse_range
from hutch.api.schemas import FileList, MakeDirectory, MoveFile
from hutch.api.waking import WAKING
from hutch.errors import (
    AlreadyExists,
    FileMissing,
    GuestUnavailable,
    InvalidPath,
    SandboxNotFound,
    SandboxNotRunning,
)
from hutch.model import FileInfo

router = APIRouter(prefix="/v1/sandboxes/{sandbox_id}/files", tags=["files"])

PathQuery = Annotated[
    str, Query(min_length=1, max_length=4096, description="Absolute, or relative to the user's home.")
]
UserQuery = Annotated[str | None, Query(max_length=64, description="As whom; default: the template's user.")]

_ERRORS = documented(SandboxNotFound, SandboxNotRunning, FileMissing, InvalidPath, GuestUnavailable, *WAKING)
_WRITE_ERRORS = documented(
    SandboxNotFound, SandboxNotRunning, FileMissing, InvalidPath, AlreadyExists, GuestUnavailable, *WAKING
)
_FILE: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file.", "content": {OCTETS: {"schema": BINARY}}},
    206: {"description": "The range of it.", "content": {OCTETS: {"schema": BINARY}}},
    416: {
        "description": "The range begins beyond the end.",
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    },
}
_TAR: dict[int | str, dict[str, Any]] = {200: {"description": "A tar.", "content": {TAR: {"schema": BINARY}}}}


def _body(media_type: str) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {media_type: {"schema": BINARY}}}}


@router.get("", response_model=None, responses=_ERRORS | _FILE)
async def read_file(
    sandbox_id: SandboxId,
    path: PathQuery,
    control: ControlDep,
    org: OrgDep,
    user: UserQuery = None,
    range: Annotated[str | None, Header(max_length=256)] = None,
) -> Response:
    """A file's bytes, or the `Range` of them."""
    span = None
    if range:
        size = (await control.files.stat(sandbox_id, path, user=user, org=org)).size
        try:
            span = parse_range(range, size)
        except Unsatisfiable:
            return unsatisfiable(size)
    start, end = (span.start, span.end) if span else (0, None)
    found = await control.files.read(sandbox_id, path, user=user, start=start, end=end, org=org)
    return download(found, posixpath.basename(path), ranges=True)


@router.head("", response_model=None, responses=_ERRORS)
async def head_file(
    sandbox_id: SandboxId, path: PathQuery, control: ControlDep, org: OrgDep, user: UserQuery = None
) -> Response:
    """Whether there is such a file, and its size."""
    info = await control.files.stat(sandbox_id, path, user=user, org=org)
    if info.type == "directory":
        raise InvalidPath(f"{path} is a directory", hint="`GET .../files/tar` gives a directory as a tar.")
    headers = file_headers(posixpath.basename(path), ranges=True) | {"Content-Length": str(info.size)}
    return Response(status_code=200, media_type=OCTETS, headers=headers)


@router.put("", responses=_WRITE_ERRORS, openapi_extra=_body(OCTETS))
async def write_file(
    request: Request,
    sandbox_id: SandboxId,
    path: PathQuery,
    control: ControlDep,
    org: OrgDep,
    user: UserQuery = None,
    mode: Annotated[str | None, Query(pattern="^[0-7]{3,4}$", description="In octal, for example `755`.")] = None,
) -> FileInfo:
    """Write the body as this file: whole, or (when the connection is cut) not at all. Makes parent directories."""
    bits = None if mode is None else int(mode, 8)
    length = request.headers.get("content-length", "")
    size = int(length) if length.isdecimal() else None  # what cannot fit is refused before it is sent
    body = streamed_body(request)
    return await control.files.write(sandbox_id, path, body, user=user, mode=bits, size=size, org=org)


@router.delete("", status_code=204, responses=_ERRORS)
async def remove_file(
    sandbox_id: SandboxId, path: PathQuery, control: ControlDep, org: OrgDep, user: UserQuery = None
) -> Response:
    """Remove a file, or a directory with all that is in it."""
    await control.files.remove(sandbox_id, path, user=user, org=org)
    return Response(status_code=204)


@router.get("/list", responses=_ERRORS)
async def list_files(
    sandbox_id: SandboxId,
    path: PathQuery,
    control: ControlDep,
    org: OrgDep,
    depth: Annotated[int, Query(ge=1, le=64)] = 1,
    user: UserQuery = None,
) -> FileList:
    """What is in a directory, down to `depth`."""
    return FileList(entries=await control.files.list(sandbox_id, path, depth=depth, user=user, org=org))


@router.get("/stat", responses=_ERRORS)
async def stat_file(
    sandbox_id: SandboxId, path: PathQuery, control: ControlDep, org: OrgDep, user: UserQuery = None
) -> FileInfo:
    """One file or directory; a link is not followed."""
    return await control.files.stat(sandbox_id, path, user=user, org=org)


@router.post("/mkdir", responses=_WRITE_ERRORS)
async def make_directory(sandbox_id: SandboxId, body: MakeDirectory, control: ControlDep, org: OrgDep) -> FileInfo:
    """Make a directory and its parents; no error when it is there."""
    return await control.files.mkdir(sandbox_id, body.path, user=body.user, org=org)


@router.post("/move", responses=_WRITE_ERRORS)
async def move_file(sandbox_id: SandboxId, body: MoveFile, control: ControlDep, org: OrgDep) -> FileInfo:
    """Rename a file or directory."""
    return await control.files.move(sandbox_id, body.source, body.destination, user=body.user, org=org)


@router.get("/tar", response_model=None, responses=_ERRORS | _TAR)
async def read_tar(
    sandbox_id: SandboxId, path: PathQuery, control: ControlDep, org: OrgDep, user: UserQuery = None
) -> Response:
    """A directory (or one file) as a tar stream, names relative to it."""
    found = await control.files.read_tar(sandbox_id, path, user=user, org=org)
    return download(found, (posixpath.basename(path.rstrip("/")) or "root") + ".tar", media_type=TAR)


@router.put("/tar", status_code=204, responses=_WRITE_ERRORS, openapi_extra=_body(TAR))
async def write_tar(
    request: Request, sandbox_id: SandboxId, path: PathQuery, control: ControlDep, org: OrgDep, user: UserQuery = None
) -> Response:
    """Unpack a tar stream below a directory."""
    await control.files.write_tar(sandbox_id, path, streamed_body(request), user=user, org=org)
    return Response(status_code=204)
