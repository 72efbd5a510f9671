"""Calls to the kernel of a running sandbox, over the socket by which `runsc` itself talks to it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_TIMEOUT = 60.0
_ANSWER_LIMIT = 1 << 20
_ESTABLISHED = "netstack_tcp_current_established"


async def cut_connections(control: Path) -> None:
    """Reset all of a sandbox's TCP connections to the outside, and tell the processes that wait for them.

    gVisor does this when it is saved, but in the middle of it: what it has written of its state by then does not fit
    what follows (a descriptor that epoll reports while the epoll's list of ready ones is written), and after a thaw
    event loops spin for ever. So it is made to save before it is saved: into nothing, and the memory into a device
    that is always full, so that it gives up before any is copied.

    Raises `OSError` when the kernel does not answer.
    """
    await asyncio.to_thread(_save_into_nothing, control)


async def established(control: Path) -> int | None:
    """How many ends of TCP connections the sandbox's own kernel holds for established just now: two for one over its
    loopback. None where it cannot tell."""
    arguments = {"only_metrics": f"^{_ESTABLISHED}$"}
    try:
        answer = await asyncio.to_thread(call, control, "Metrics.Export", arguments)
        for each in answer["result"]["snapshot"]["data"]:
            if each["metric"]["name"] == _ESTABLISHED:
                return int(each["val"].get("int", 0))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        pass
    return None


def call(
    control: Path, method: str, arguments: Any, descriptors: Sequence[int] = (), limit: int = _ANSWER_LIMIT
) -> dict[str, Any]:
    """Make one call with open files: its answer, of at most so many bytes, which may be that it has failed. Blocks.
    Raises `OSError`."""
    text = json.dumps({"method": method, "arg": arguments}).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_TIMEOUT)
        connection.connect(str(control))
        socket.send_fds(connection, [text], descriptors) if descriptors else connection.sendall(text)
        answer = bytearray()
        while True:
            more = connection.recv(1 << 16)
            answer += more
            if not more or len(answer) > limit:
                raise ConnectionError("the sandbox's kernel does not answer")
            if more.rstrip().endswith(b"}") and isinstance(whole := _parsed(answer), dict):
                return whole


def _save_into_nothing(control: Path) -> None:
    arguments = {"metadata": {"compression": "none"}, "have_pages_file": True, "Resume": True}
    with contextlib.ExitStack() as stack:
        descriptors = [os.open(file, os.O_RDWR | os.O_CLOEXEC) for file in ("/dev/null", "/dev/null", "/dev/full")]
        for descriptor in descriptors:
            stack.callback(os.close, descriptor)
        call(control, "containerManager.Checkpoint", arguments, descriptors)


def _parsed(answer: bytearray) -> Any:
    """None for what is not whole yet."""
    try:
        return json.loads(answer)
    except (ValueError, RecursionError):
        return None
