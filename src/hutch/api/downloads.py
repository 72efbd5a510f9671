"""Raw bytes on their way out."""

from __future__ import annotations

from urllib.parse import quote

from starlette.responses import Response

from hutch.api.problems import ProblemResponse
from hutch.api.streams import Stream
from hutch.control.types import Download
from hutch.errors import InvalidRequest

OCTETS = "application/octet-stream"
TAR = "application/x-tar"
BINARY = {"type": "string", "format": "binary"}


def download(source: Download, name: str, *, media_type: str = OCTETS, ranges: bool = False) -> Stream:
    """The file as an attachment: what a sandbox has written is never shown as a page of ours."""
    headers = file_headers(name, ranges=ranges)
    if source.size is not None:
        headers["Content-Length"] = str(source.size)
    partial = ranges and source.total is not None and source.size is not None and source.size != source.total
    if partial:
        assert source.size is not None
        headers["Content-Range"] = f"bytes {source.start}-{source.start + source.size - 1}/{source.total}"
    return Stream(source.chunks, media_type=media_type, status=206 if partial else 200, headers=headers)


def file_headers(name: str, *, ranges: bool) -> dict[str, str]:
    """The headers that go with a file of this name."""
    headers = {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(name, safe='', errors='replace')}"}
    return headers | {"Accept-Ranges": "bytes"} if ranges else headers


def unsatisfiable(size: int) -> Response:
    """416: the range begins beyond the end."""
    error = InvalidRequest(f"Range: the file has {size} bytes", field="Range")
    return ProblemResponse(error, status=416, headers={"Content-Range": f"bytes */{size}"})
