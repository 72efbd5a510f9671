"""Short questions to the daemons of this machine, by the standard library alone: `hutch up` asks them often, and an
HTTP client of the SDK takes longer to be made than they take to answer."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

FAILURES = (OSError, ValueError, HTTPException)
"""What a question that is not answered, or by somebody else, raises."""


class _Unix(HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("node", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def get(where: str | Path, path: str, headers: Mapping[str, str] | None = None, timeout: float = 5.0) -> Any | None:
    """The JSON that a server at a URL (`http` only) or Unix socket has there; None when it refuses. Raises one of
    `FAILURES`."""
    status, body = _ask("GET", where, path, headers, timeout)
    return json.loads(body) if 200 <= status < 300 else None


def delete(where: str | Path, path: str, timeout: float = 60.0) -> int:
    """Have something removed; the answer's status. Raises one of `FAILURES`."""
    return _ask("DELETE", where, path, None, timeout)[0]


def _ask(
    method: str, where: str | Path, path: str, headers: Mapping[str, str] | None, timeout: float
) -> tuple[int, bytes]:
    if isinstance(where, Path):
        connection: HTTPConnection = _Unix(where, timeout)
    else:
        parts = urlsplit(where)
        connection = HTTPConnection(parts.hostname or "", parts.port, timeout=timeout)
    try:
        connection.request(method, path, headers=dict(headers or {}))
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()
