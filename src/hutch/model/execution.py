"""Commands run in a sandbox."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from hutch.model.common import LimitBreach, Model


class PtySize(Model):
    cols: int = Field(80, ge=1, le=1000)
    rows: int = Field(24, ge=1, le=1000)


class ExecRequest(Model):
    """`POST /v1/sandboxes/{id}/exec`."""

    command: str | list[str] = Field(description="A string runs in `/bin/bash -l -c`; a list runs as it is.")
    env: dict[str, str] = Field({}, max_length=256)
    cwd: str | None = Field(None, max_length=4096, description="Default: the user's home.")
    user: str | None = Field(None, max_length=64, description="Default: the template's user.")
    timeout: float | None = Field(None, gt=0, description="Seconds; then the whole process tree is killed.")
    stdin: str | None = Field(
        None, max_length=1 << 20, description="Text given on standard input, which is then closed."
    )
    open_stdin: bool = Field(False, description="Leave standard input open for `POST .../exec/{id}/stdin`.")
    background: bool = Field(False, description="Answer at once with the exec's id.")
    stream: bool = Field(False, description="Answer with newline-delimited JSON frames as output comes.")
    pty: PtySize | None = None


class ExecState(Model):
    """A command that runs or has run."""

    id: str
    pid: int | None = None
    command: str = ""
    running: bool
    exit_code: int | None = Field(None, description="128 + signal for a process killed by a signal.")
    signal: str | None = None
    timed_out: bool = False
    breach: LimitBreach | None = Field(None, description="The limit that killed it, if one did.")
    started_at: datetime | None = None
    ended_at: datetime | None = None
    output_end: int = Field(0, description="Offset after the newest output.")


class ExecResult(ExecState):
    """What a command that was waited for gave back."""

    stdout: str = ""
    stderr: str = ""
    truncated: bool = Field(
        False, description="Output was longer than 1 MiB per stream; the rest is readable by offset."
    )


class ExecFrame(Model):
    """One line of a streamed exec. `data` is base64 where `encoding` says so (output that is not UTF-8)."""

    type: Literal["start", "stdout", "stderr", "pty", "gap", "limit", "exit", "error", "keepalive"]
    offset: int = Field(0, description="Give it as `?from=` to read on after this frame.")
    data: str | None = None
    encoding: Literal["utf-8", "base64"] = "utf-8"
    exec: ExecState | None = None
    breach: LimitBreach | None = None
    error: dict[str, object] | None = Field(None, description="A problem, as in error answers.")


class FileInfo(Model):
    """A file or directory in a sandbox."""

    name: str
    path: str
    type: Literal["file", "directory", "symlink", "other"]
    size: int
    mode: int
    owner: str
    group: str
    modified_at: datetime
    target: str | None = None
