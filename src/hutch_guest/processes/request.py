"""What is asked for when a process is to start."""

from __future__ import annotations

import base64
import binascii
import os
import re
from typing import Any

from hutch_guest.errors import InvalidRequest
from hutch_guest.processes import environment

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_MAX_SPOOL = 64 << 20
_MIN_SPOOL = 256 << 10
_MAX_COMMAND = 1000


class StartRequest:
    """A validated request for a process."""

    __slots__ = (
        "argv", "cwd", "env", "id", "linger", "max_spool", "pty",
        "retain_all", "shell", "stdin", "tag", "timeout", "user",
    )  # fmt: skip

    def __init__(self, argv: list[str] | None, shell: str | None = None, id: str | None = None) -> None:
        self.id = id or "exe_" + os.urandom(11).hex()
        self.argv = argv
        self.shell = shell
        self.env: dict[str, str] = {}
        self.cwd: str | None = None
        self.user: str | None = None
        self.timeout: float | None = None
        self.stdin: bool | str | bytes = False
        """False: none; True: a pipe to write to; str: from this file; bytes: these."""
        self.pty: tuple[int, int] | None = None
        self.tag: str | None = None
        self.retain_all = False
        self.max_spool = _MAX_SPOOL
        self.linger: float | None = 1.0

    @property
    def command(self) -> str:
        """The command for people to read."""
        command = self.shell if self.shell is not None else " ".join(self.argv or ())
        return command if len(command) <= _MAX_COMMAND else command[: _MAX_COMMAND - 1] + "…"


def parse(raw: dict[str, Any]) -> StartRequest:
    """Check the JSON of `POST /hutch/processes`."""
    id = _text(raw, "id")
    if id is not None and not _ID.match(id):
        raise InvalidRequest("id is not 1 to 64 letters, digits, _ or -", field="id")
    request = StartRequest(_argv(raw), _text(raw, "shell"), id)
    if (request.argv is None) == (request.shell is None):
        raise InvalidRequest("give either argv or shell", field="argv")
    request.env = environment.check(raw.get("env"))
    request.cwd = _text(raw, "cwd")
    request.user = _text(raw, "user")
    timeout = raw.get("timeout")
    if timeout is not None:
        if not isinstance(timeout, int | float) or isinstance(timeout, bool) or not 0 < timeout < 1e9:
            raise InvalidRequest("timeout is not a positive number of seconds", field="timeout")
        request.timeout = float(timeout)
    request.stdin = _stdin(raw.get("stdin"))
    request.pty = pty_size(raw["pty"]) if raw.get("pty") is not None else None
    retain = raw.get("retain", "tail")
    if retain not in ("tail", "all"):
        raise InvalidRequest("retain is neither 'tail' nor 'all'", field="retain")
    request.retain_all = retain == "all"
    spool = raw.get("max_spool") or _MAX_SPOOL
    if not isinstance(spool, int) or isinstance(spool, bool) or spool < 0:
        raise InvalidRequest("max_spool is not a number of bytes", field="max_spool")
    request.max_spool = max(spool, _MIN_SPOOL)
    return request


def _text(raw: dict[str, Any], name: str) -> str | None:
    value = raw.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or "\0" in value or not value:
        raise InvalidRequest(f"{name} is not a text", field=name)
    return value


def _argv(raw: dict[str, Any]) -> list[str] | None:
    argv = raw.get("argv")
    if argv is None:
        return None
    if not isinstance(argv, list) or not argv or not all(isinstance(part, str) for part in argv):
        raise InvalidRequest("argv is not a list of texts", field="argv")
    if not argv[0] or any("\0" in part for part in argv):
        raise InvalidRequest("argv has an empty program or a NUL", field="argv")
    return argv


def _stdin(raw: object) -> bool | str | bytes:
    if raw is None or raw == "none":
        return False
    if raw == "pipe":
        return True
    if isinstance(raw, dict) and isinstance(raw.get("file"), str):
        return str(raw["file"])
    if isinstance(raw, dict) and isinstance(raw.get("data"), str):
        try:
            return base64.b64decode(raw["data"], validate=True)
        except (binascii.Error, ValueError) as error:
            raise InvalidRequest("stdin.data is not base64", field="stdin") from error
    raise InvalidRequest("stdin is none of 'none', 'pipe', {file}, {data}", field="stdin")


def pty_size(raw: object) -> tuple[int, int]:
    """{"cols", "rows"} as numbers."""
    if isinstance(raw, dict):
        cols, rows = raw.get("cols", 80), raw.get("rows", 24)
        if isinstance(cols, int) and isinstance(rows, int) and 0 < cols <= 10000 and 0 < rows <= 10000:
            return cols, rows
    raise InvalidRequest("the terminal's size is not {cols, rows}", field="pty")
