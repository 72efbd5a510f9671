"""Jupyter's messages over ZeroMQ, as much of them as running code takes.

The sockets are Unix sockets in a directory that only the user can enter, so messages are not signed: a key would be the
same in every sandbox of the template anyway.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zmq

_DELIMITER = b"<IDS|MSG>"
_PORTS = {"shell_port": 1, "iopub_port": 2, "stdin_port": 3, "control_port": 4, "hb_port": 5}
_AT_ONCE = 64
"""Messages that are taken before others have their turn."""

Message = dict[str, Any]


class Wire:
    """The two sockets to a kernel that code needs: requests and their answers go by the one, what comes of them by the
    other."""

    def __init__(self, folder: Path, heard: Callable[[Message], None]) -> None:
        context = zmq.Context.instance()
        self._heard = heard
        self._loop = asyncio.get_running_loop()
        self._shell = context.socket(zmq.DEALER)
        self._output = context.socket(zmq.SUB)
        self._output.set(zmq.SUBSCRIBE, b"")
        self._output.set(zmq.RCVHWM, 0)
        self._session = os.urandom(8).hex()
        self._numbers = itertools.count(1)
        self._held = False
        self._closed = False
        for socket, port in ((self._shell, "shell_port"), (self._output, "iopub_port")):
            socket.set(zmq.LINGER, 0)
            socket.connect(f"ipc://{folder}/kernel-{_PORTS[port]}")
            self._loop.add_reader(socket.get(zmq.FD), self._drain, socket)

    def send(self, kind: str, content: Message) -> str:
        """Send a request; the id by which what comes of it is known."""
        id = f"{self._session}-{next(self._numbers)}"
        header = {"msg_id": id, "msg_type": kind, "session": self._session, "username": "", "version": "5.3"}
        parts = [json.dumps(part).encode() for part in (header, {}, {}, content)]
        self._shell.send_multipart([_DELIMITER, b"", *parts])
        self._loop.call_soon(self._drain, self._shell)  # a socket's descriptor tells of changes only
        return id

    def hold(self) -> None:
        """Take no output for now: whoever gets it does not read."""
        self._held = True

    def release(self) -> None:
        """Go on taking it."""
        if self._held:
            self._held = False
            self._drain(self._output)

    def close(self) -> None:
        """No more of either."""
        if self._closed:
            return
        self._closed = True
        for socket in (self._shell, self._output):
            self._loop.remove_reader(socket.get(zmq.FD))
            socket.close()

    def _drain(self, socket: zmq.Socket[bytes]) -> None:
        for _ in range(_AT_ONCE):
            if self._closed or (self._held and socket is self._output):
                return
            try:
                parts = socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            if (message := _parse(parts)) is not None:
                self._heard(message)
        self._loop.call_soon(self._drain, socket)


def connection_file(folder: Path) -> Path:
    """Write what a kernel is told of its sockets."""
    path = folder / "connection.json"
    known = {"transport": "ipc", "ip": f"{folder}/kernel", "key": "", "signature_scheme": "hmac-sha256"}
    path.write_text(json.dumps(known | _PORTS))
    return path


def _parse(parts: list[bytes]) -> Message | None:
    try:
        at = parts.index(_DELIMITER)
        header, parent, _, content = (json.loads(part) for part in parts[at + 2 : at + 6])
    except (ValueError, RecursionError):
        return None
    if not isinstance(header, dict) or not isinstance(parent, dict) or not isinstance(content, dict):
        return None
    kind, date = header.get("msg_type"), header.get("date")
    return {"kind": kind, "date": date, "parent": parent.get("msg_id"), "content": content}
