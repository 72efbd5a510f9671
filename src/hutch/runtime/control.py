"""Calls to the kernel of a running sandbox, over the socket by which `runsc` itself talks to it.

A call takes a millisecond. A command of `runsc` would do the same, and takes thirty to begin: it is a process of many
threads, and asks the host's kernel for memory barriers, which makes that wait twice for all its cores.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CALL_TIMEOUT = 120.0
"""Longest time in seconds for one call. A save takes some 2 ms for a MiB of memory."""
_ANSWER_LIMIT = 1 << 20


def call(
    control: Path,
    method: str,
    arguments: Any,
    descriptors: Sequence[int] = (),
    limit: int = _ANSWER_LIMIT,
    seconds: float = CALL_TIMEOUT,
) -> dict[str, Any]:
    """Make one call with open files: its answer, of at most so many bytes, which may be that it has failed. Blocks, for
    at most so many seconds. Raises `OSError`."""
    text = json.dumps({"method": method, "arg": arguments}).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(seconds)
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


def _parsed(answer: bytearray) -> Any:
    """None for what is not whole yet."""
    try:
        return json.loads(answer)
    except (ValueError, RecursionError):
        return None
