"""The guest's ends of a process's standard files."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import Callable

from hutch_guest.errors import Conflict

_READ = 256 * 1024
_USUAL_PIPE, _LARGE_PIPE = 64 * 1024, 1 << 20


def settle(waiter: asyncio.Future[None]) -> None:
    """Wake whoever awaits it, if somebody still does."""
    if not waiter.done():
        waiter.set_result(None)


class OutputPipe:
    """Reads what a process writes, and hands it on until told to pause. Ours to close."""

    def __init__(self, fd: int, kind: int, take: Callable[[int, bytes], None], closed: Callable[[], None]) -> None:
        os.set_blocking(fd, False)
        self.kind = kind
        self.open = True
        self._fd = fd
        self._take = take
        self._closed = closed
        self._loop = asyncio.get_running_loop()
        self._reading = False
        self._large = False
        self.resume()

    def resume(self) -> None:
        """Read again."""
        if self.open and not self._reading:
            self._reading = True
            self._loop.add_reader(self._fd, self._readable)

    def pause(self) -> None:
        """Leave what comes in the pipe, so that the process blocks when the pipe is full."""
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._fd)

    def _readable(self) -> None:
        try:
            data = os.read(self._fd, _READ)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:  # EIO: the last holder of a terminal has closed it
            data = b""
        if not data:
            self.close()
            self._closed()
            return
        if len(data) >= _USUAL_PIPE and not self._large:
            self._large = True
            with contextlib.suppress(OSError):  # fewer switches between a busy writer and us; a terminal has no size
                fcntl.fcntl(self._fd, fcntl.F_SETPIPE_SZ, _LARGE_PIPE)
        self._take(self.kind, data)

    def close(self) -> None:
        """Stop for good."""
        self.pause()
        if self.open:
            self.open = False
            os.close(self._fd)


class InputPipe:
    """Writes to a process's standard input, in order, as fast as the process reads. Ours to close."""

    def __init__(self, fd: int, owns_fd: bool = True) -> None:
        os.set_blocking(fd, False)
        self.open = True
        self._fd = fd
        self._owns_fd = owns_fd
        self._loop = asyncio.get_running_loop()
        self._turn = asyncio.Lock()
        self._room: asyncio.Future[None] | None = None

    async def write(self, data: bytes) -> None:
        """Write all of `data`. Raises `Conflict` when nobody reads any more."""
        async with self._turn:
            view = memoryview(data)
            while view:
                if not self.open:
                    raise Conflict("standard input is closed")
                try:
                    view = view[os.write(self._fd, view) :]
                except BlockingIOError:
                    await self._wait_for_room()
                except OSError as error:
                    self.close()
                    raise Conflict("the process does not read its standard input any more") from error

    async def _wait_for_room(self) -> None:
        self._room = room = self._loop.create_future()
        self._loop.add_writer(self._fd, settle, room)
        try:
            await room
        finally:
            self._room = None
            if self.open:
                self._loop.remove_writer(self._fd)

    async def finish(self) -> None:
        """Close after what is being written: the process reads end-of-file."""
        async with self._turn:
            self.close()

    def close(self) -> None:
        """Close now; a write that waits fails."""
        if not self.open:
            return
        self.open = False
        self._loop.remove_writer(self._fd)
        if self._room is not None:
            settle(self._room)
        if self._owns_fd:
            os.close(self._fd)
