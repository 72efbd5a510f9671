"""The node's end of one sandbox's telling."""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path

import structlog

from hutch.runtime.trace.events import Connecting, Event, Lost, Started, Tell
from hutch.runtime.trace.programs import Programs
from hutch.runtime.trace.wire import (
    HELLO,
    LONGEST,
    BadMessage,
    Cloned,
    Connected,
    Context,
    Executed,
    Exited,
    Said,
    decode,
)

log = structlog.get_logger("hutch.runtime")

RATE = 500.0
"""Messages of one sandbox that are read in a second; the rest wait with its kernel, which drops what is too much."""
BURST = 4000.0
_AT_ONCE = 64
_PAUSE = 0.1
_CLOCK = 60.0
"""Seconds by which the kernel's clock may differ from ours."""

_buffer = memoryview(bytearray(LONGEST))
"""For one message at a time, of all sandboxes."""


class Watch:
    """Of one sandbox. A socket that it listens on is for its start, and takes one connection."""

    def __init__(self, id: str, tell: Tell) -> None:
        self.programs = Programs()
        self._id, self._tell = id, tell
        self._loop = asyncio.get_running_loop()
        self._door: socket.socket | None = None
        """Where the kernel comes in, then the one that has not said its version yet."""
        self._lines: dict[socket.socket, int] = {}
        """Those that are read, and how many events each has lost."""
        self._allowed, self._counted = BURST, time.monotonic()
        self._bad = False

    def listen(self, path: Path) -> None:
        """Take the connection of the kernel that is about to start. Raises `OSError`."""
        self._door = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        self._door.bind(str(path))
        self._door.listen(1)
        self._loop.add_reader(self._door, self._accept, self._door)

    def read(self, line: socket.socket) -> None:
        """Hear what is said on this, to its end."""
        self._lines[line] = 0
        self._loop.add_reader(line, self._readable, line)

    def catch_up(self) -> None:
        """Hear what is there, as far as that is allowed just now."""
        for line in list(self._lines):
            self._readable(line)

    def close(self) -> None:
        """Hear what was said already, and no more."""
        self._shut()
        for line in list(self._lines):
            for _ in range(_AT_ONCE):
                if not self._hear(line):
                    break
            self._end(line)

    def _shut(self) -> None:
        if self._door is not None:
            self._loop.remove_reader(self._door)
            self._door.close()
            self._door = None

    def _accept(self, door: socket.socket) -> None:
        try:
            line, _ = door.accept()
        except OSError:  # it has gone again
            return
        self._shut()
        line.setblocking(False)
        self._door = line
        self._loop.add_reader(line, self._greet, line)

    def _greet(self, line: socket.socket) -> None:
        """The first message is its version; any will do."""
        self._loop.remove_reader(line)
        self._door = None
        try:
            line.recv(64)
            line.send(HELLO)
        except OSError:
            line.close()
        else:
            self.read(line)

    def _readable(self, line: socket.socket) -> None:
        now = time.monotonic()
        self._allowed = min(BURST, self._allowed + (now - self._counted) * RATE)
        self._counted = now
        for _ in range(_AT_ONCE):
            if self._allowed < 1:
                self._loop.remove_reader(line)
                self._loop.call_later(_PAUSE, self._again, line)
                return
            if not self._hear(line):
                return
            self._allowed -= 1

    def _again(self, line: socket.socket) -> None:
        if line in self._lines:
            self._loop.add_reader(line, self._readable, line)

    def _hear(self, line: socket.socket) -> bool:
        """Whether there may be more."""
        try:
            size = line.recv_into(_buffer)
        except BlockingIOError:
            return False
        except OSError:
            size = 0
        if size == 0:
            self._end(line)
            return False
        try:
            dropped, said = decode(_buffer[:size])
        except BadMessage as error:
            if not self._bad:
                log.error("the kernel of a sandbox says what makes no sense", sandbox=self._id, error=str(error))
            self._bad = True
            self._tell(self._id, Lost(1))
            return True
        if dropped != self._lines[line]:
            lost, self._lines[line] = (dropped - self._lines[line]) & 0xFFFFFFFF, dropped
            self._tell(self._id, Lost(lost))
        if said is not None and (event := self._event(said)) is not None:
            self._tell(self._id, event)
        return True

    def _event(self, said: Said) -> Event | None:
        known, by = self.programs, said.by
        match said:
            case Cloned():
                known.cloned(by.pid, said.child)
            case Exited():
                known.exited(by.pid)
            case Executed():
                known.executed(by.pid, said.path)
                parent = known.of(by.pid).parent
                return Started(_when(by), by.pid, parent, said.path, said.argv, by.cwd, by.uid)
            case Connected():
                return Connecting(_when(by), by.pid, known.of(by.pid).path, by.name, said.address, said.port)
        return None

    def _end(self, line: socket.socket) -> None:
        if self._lines.pop(line, None) is not None:
            self._loop.remove_reader(line)
            line.close()


def _when(by: Context) -> float:
    now = time.time()
    return by.time if abs(by.time - now) < _CLOCK else now
