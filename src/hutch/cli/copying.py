"""`hutch cp`: files and directories, in and out."""

from __future__ import annotations

import posixpath
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from hutch.cli.common import Json, connection, find_sandbox
from hutch.cli.console import note, one_line, print_json
from hutch.cli.progress import transfer, watched
from hutch.cli.units import human_bytes
from hutch.errors import FileMissing, InvalidRequest
from hutch.sdk import Hutch, Sandbox
from hutch.sdk.sources import chunks_of, save
from hutch.sdk.tar import size_of

_REMOTE = re.compile(r"^([A-Za-z0-9_]+):(.*)$", re.DOTALL)


@dataclass(frozen=True)
class Remote:
    """`SANDBOX:PATH`."""

    sandbox: str
    path: str


def cp(
    ctx: typer.Context,
    source: Annotated[str, typer.Argument(help="A local path, SANDBOX:PATH, or - for standard input.")],
    target: Annotated[str, typer.Argument(help="A local path, SANDBOX:PATH, or - for standard output.")],
    user: Annotated[str | None, typer.Option("--user", "-u", help="As this user of the sandbox.")] = None,
    exclude: Annotated[
        list[str],
        typer.Option("--exclude", "-x", metavar="PATTERN", help="Leave out of a local directory."),
    ] = [],  # noqa: B006
    json: Json = False,
) -> None:
    """Copy files and directories into a sandbox or out of it.

    Paths in a sandbox are absolute, or relative to the user's home. Into a directory that is there, the source goes
    under its own name; else it gets the target's name.
    """
    a, b = _parse(source), _parse(target)
    if isinstance(a, Remote) == isinstance(b, Remote):
        raise InvalidRequest("one side is local, the other SANDBOX:PATH", hint="hutch cp ./file sbx_k3v:/home/user/")
    with connection(ctx).client() as client:
        if isinstance(b, Remote):
            size = _send(_sandbox(client, b), str(a), b.path, user, exclude)
        else:
            assert isinstance(a, Remote)
            size = _fetch(_sandbox(client, a), a.path, b, user)
    if json and target != "-":
        print_json({"source": source, "target": target, "bytes": size})
    elif target != "-":
        note(f"{one_line(source)} → {one_line(target)}  {human_bytes(size)}")


def _parse(text: str) -> Remote | str:
    match = _REMOTE.match(text)
    if match and not Path(text).exists() and len(match[1]) > 1:
        return Remote(match[1], match[2] or ".")
    return text


def _sandbox(client: Hutch, remote: Remote) -> Sandbox:
    return client.sandboxes.get(find_sandbox(client, remote.sandbox))


def _is_directory(sandbox: Sandbox, path: str, user: str | None) -> bool:
    try:
        info = sandbox.files.stat(path, user=user)
        if info.type == "symlink":
            info = sandbox.files.stat(path.rstrip("/") + "/.", user=user)
    except FileMissing:
        return False
    return info.type == "directory"


def _send(sandbox: Sandbox, source: str, path: str, user: str | None, exclude: list[str]) -> int:
    local = Path(source)
    if source != "-" and (path.endswith("/") or _is_directory(sandbox, path, user)):
        path = posixpath.join(path, local.resolve().name)
    if source != "-" and local.is_dir():
        size = size_of(local, exclude)
        with transfer(f"sending {source}", size) as advance:
            sandbox.files.mkdir(path, user=user)
            sandbox.files.upload_dir(local, path, exclude=exclude, user=user, watch=lambda c: watched(c, advance))
        return size
    stdin = source == "-"
    with transfer(f"sending {source}", None if stdin else local.stat().st_size) as advance:
        mode = None if stdin else local.stat().st_mode & 0o777
        chunks = watched(chunks_of(sys.stdin.buffer if stdin else local), advance)
        return sandbox.files.write(path, chunks, mode=mode, user=user).size


def _fetch(sandbox: Sandbox, path: str, target: str, user: str | None) -> int:
    if target == "-":
        return save(sandbox.files.stream(path, user=user), sys.stdout.buffer)
    local = Path(target)
    if local.is_dir() or target.endswith("/"):
        local = local / (posixpath.basename(path.rstrip("/")) or "root")
    if _is_directory(sandbox, path, user):
        total = 0

        def count(size: int) -> None:
            nonlocal total
            total += size
            advance(size)

        with transfer(f"fetching {path}", None) as advance:
            sandbox.files.download_dir(path, local, user=user, seen=lambda _, size: count(size))
        return total
    local.parent.mkdir(parents=True, exist_ok=True)
    info = sandbox.files.stat(path, user=user)
    with transfer(f"fetching {path}", info.size if info.type == "file" else None) as advance:
        size = save(watched(sandbox.files.stream(path, user=user), advance), local)
    if info.mode & 0o100:
        local.chmod(local.stat().st_mode | 0o111)
    return size
