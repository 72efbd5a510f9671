"""What leaves a Python kernel: the lines that tell what came of the code, and what it prints."""

from __future__ import annotations

import contextlib
import io
import json
import os
import socket
import threading
import time
from typing import Any

from jupyter_client.jsonutil import json_clean, json_default
from jupyter_client.session import Session

from hutch_code import results
from hutch_code.kernels import Event
from hutch_code.python import BEGIN

_SOON = 0.1
"""Seconds for which part of a line waits for the rest of it."""
_LATE = ("execute_result",)
"""Messages that go out with the next one, the last of which is the end: each costs the reader's attention."""


class Wire(Session):
    """Takes Jupyter's messages, and tells the server what its clients want to know of them."""

    def connect(self, control: socket.socket) -> Wire:
        """To the server."""
        self._control = control
        self._late: list[bytes] = []
        self._told = 0
        self.told_error = False
        """Whether an error was told since this was set to False."""
        self._turn = threading.RLock()
        return self

    def send(
        self,
        stream: object,
        msg_or_type: dict[str, Any] | str,
        content: dict[str, Any] | None = None,
        parent: dict[str, Any] | None = None,
        ident: object = None,
        buffers: object = None,
        track: bool = False,
        header: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> dict[str, Any] | None:
        """One of IPython's messages."""
        message = msg_or_type
        if not isinstance(message, dict):
            message = self.msg(message, content=content, parent=parent, header=header, metadata=metadata)
        kind = message["header"]["msg_type"]
        if event := results.from_message(kind, None, message["content"]):
            self.tell(event, late=kind in _LATE)
        return message

    def tell(self, event: Event, late: bool = False) -> None:
        """Write a line, and those that wait; or let it wait for the next one. Not in a process that the code forked.
        Those that wait are written again when this is cut, which their numbers tell."""
        packed = _packed(event)
        with self._turn:
            if os.getpid() != self.pid:
                return
            self._told += 1
            line = BEGIN + b"%d " % self._told + packed + b"\n"
            if late:
                self._late.append(line)
                return
            self._control.sendall(b"".join((*self._late, line)))
            self._late.clear()
            self.told_error |= event["type"] == "error"

    def forget(self) -> None:
        """What waits to be written."""
        self._late.clear()


class Output(io.TextIOWrapper):
    """Standard output, or errors. Lines are written at once, so that nothing is lost when the process dies."""

    def __init__(self, descriptor: int, flusher: Flusher) -> None:
        raw = io.FileIO(descriptor, "w", closefd=False)
        super().__init__(io.BufferedWriter(raw), "utf-8", "backslashreplace", line_buffering=True)
        self._flusher = flusher

    def write(self, text: str) -> int:
        """As of any file; what is no whole line is written soon."""
        written = super().write(text)
        if not text.endswith("\n"):
            self._flusher.wake()
        return written

    def close(self) -> None:
        """It is not the code's to close."""
        self.flush()


class Flusher:
    """Writes what has waited for the rest of its line, while the code goes on."""

    def __init__(self) -> None:
        self._streams: tuple[Output, ...] = ()
        self._awake = False
        self._thread: threading.Thread | None = None
        self._begin()
        os.register_at_fork(after_in_child=self._begin)

    def watch(self, *streams: Output) -> None:
        """These."""
        self._streams = streams

    def wake(self) -> None:
        """Part of a line waits."""
        if self._awake:
            return
        self._awake = True
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="output", daemon=True)
            self._thread.start()
        with contextlib.suppress(RuntimeError):  # another thread of the code's did
            self._called.release()

    def _run(self) -> None:
        while True:
            self._called.acquire()
            time.sleep(_SOON)
            self._awake = False
            for stream in self._streams:
                with contextlib.suppress(Exception):  # nobody reads any more
                    stream.flush()

    def _begin(self) -> None:
        """Anew: in a process that the code forked there is no thread."""
        self._awake, self._thread = False, None
        self._called = threading.Lock()
        self._called.acquire()


def _packed(event: Event) -> bytes:
    try:
        return json.dumps(event, default=json_default, allow_nan=False).encode()
    except (TypeError, ValueError):
        return json.dumps(json_clean(event), default=json_default).encode()
