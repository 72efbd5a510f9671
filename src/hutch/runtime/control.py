"""A call to the kernel of a running sandbox, over the socket by which `runsc` itself talks to it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from pathlib import Path

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
    arguments = {"metadata": {"compression": "none"}, "have_pages_file": True, "Resume": True}
    call = json.dumps({"method": "containerManager.Checkpoint", "arg": arguments}).encode()
    await asyncio.to_thread(_exchange, control, call, ["/dev/null", "/dev/null", "/dev/full"])


async def established(control: Path) -> int | None:
    """How many ends of TCP connections the sandbox's own kernel holds for established just now: two for one over its
    loopback. None where it cannot tell."""
    call = json.dumps({"method": "Metrics.Export", "arg": {"only_metrics": f"^{_ESTABLISHED}$"}}).encode()
    try:
        answer = json.loads(await asyncio.to_thread(_exchange, control, call, []))
        for each in answer["result"]["snapshot"]["data"]:
            if each["metric"]["name"] == _ESTABLISHED:
                return int(each["val"].get("int", 0))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        pass
    return None


def _exchange(control: Path, call: bytes, files: list[str]) -> bytes:
    """Make one call with open files. Its answer, which is an error for a save that is made to fail."""
    with contextlib.ExitStack() as stack:
        connection = stack.enter_context(socket.socket(socket.AF_UNIX))
        connection.settimeout(_TIMEOUT)
        connection.connect(str(control))
        descriptors = [os.open(file, os.O_RDWR | os.O_CLOEXEC) for file in files]
        for descriptor in descriptors:
            stack.callback(os.close, descriptor)
        socket.send_fds(connection, [call], descriptors) if descriptors else connection.sendall(call)
        answer = b""
        while not _whole(answer):
            more = connection.recv(1 << 16)
            if not more or len(answer) > _ANSWER_LIMIT:
                raise ConnectionError("the sandbox's kernel does not answer")
            answer += more
        return answer


def _whole(answer: bytes) -> bool:
    try:
        json.loads(answer)
    except ValueError:
        return False
    return True
