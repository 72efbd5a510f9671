"""Trace sessions of gVisor: what one is asked for, at a sandbox's start and while it runs.

At a start `runsc` connects to a socket that a file names, before anything runs inside, so that nothing is missed. That
socket's buffer has the host's usual size, and a start with arguments and environment of more than that would be told as
one event that is lost. Therefore the kernel is at once given another end of ours, with room for the longest message
there is. The same call has a sandbox that was adopted go on telling.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from hutch.runtime.control import call

Level = Literal["off", "processes", "all"]

_ROOM = 4 << 20
"""Bytes that the kernel may be ahead of us. An execve has 2 MiB of arguments and environment at most."""
_SO_SNDBUFFORCE = 32
_RETRIES = 3
"""Waits of the kernel for room, of 25 to 100 microseconds."""
_PROCESSES_LIMIT = 8 << 20
_MOST_PROCESSES = 4096

_WHO = ["time", "group_id"]
_FIELDS: dict[str, list[str]] = {
    "sentry/clone": _WHO,
    "sentry/execve": [*_WHO, "credentials", "cwd"],
    "sentry/exit_notify_parent": _WHO,
    "syscall/connect/enter": [*_WHO, "process_name"],
}
POINTS: dict[Level, tuple[str, ...]] = {
    "off": (),
    "processes": ("sentry/clone", "sentry/execve", "sentry/exit_notify_parent"),
    "all": tuple(_FIELDS),
}


def at_start(points: Sequence[str], endpoint: Path) -> str:
    """The file for `--pod-init-config`: the kernel's socket is connected to `endpoint`."""
    return json.dumps({"trace_session": _session(points, {"endpoint": str(endpoint)})})


async def begin(control: Path, points: Sequence[str]) -> socket.socket:
    """Have a running kernel tell us from now on, and nobody else; our end. Raises `OSError`."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with theirs:
            ours.setblocking(False)
            theirs.setblocking(False)
            theirs.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _ROOM)
            arguments = {"Config": _session(points, {}), "Force": True}
            method = "containerManager.CreateTraceSession"
            answer = await asyncio.to_thread(call, control, method, arguments, [theirs.fileno()])
        if not answer.get("success"):
            raise OSError(f"the sandbox's kernel does not tell: {str(answer.get('err'))[:500]}")
    except BaseException:
        ours.close()
        raise
    return ours


async def processes(control: Path) -> list[tuple[int, int, str]]:
    """Number, parent and program of the processes that a running kernel has. Raises `OSError`."""
    answer = await asyncio.to_thread(call, control, "containerManager.ProcfsDump", None, [], _PROCESSES_LIMIT)
    found = answer.get("result")
    return list(_found(found[:_MOST_PROCESSES])) if isinstance(found, list) else []


def _found(processes: Iterable[Any]) -> Iterator[tuple[int, int, str]]:
    for each in processes:
        match each:
            case {"exe": str(path), "status": {"pid": int(pid), "ppid": int(parent)}}:
                yield pid, parent, path[:512]


def _session(points: Sequence[str], config: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": "Default",  # the only one that there may be
        "points": [{"name": name, "context_fields": _FIELDS[name]} for name in points],
        "sinks": [{"name": "remote", "config": config | {"retries": _RETRIES}}],
    }
