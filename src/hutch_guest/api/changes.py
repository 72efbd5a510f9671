"""`/hutch/changes`: what was written since the image: its listing, all of it as a stream, and that put back."""

from __future__ import annotations

import asyncio
import os

from hutch_guest.changes import CHILD
from hutch_guest.errors import Conflict, GuestError
from hutch_guest.files.work import in_thread
from hutch_guest.guest import Guest
from hutch_guest.http.messages import Request, Response, Stream, dump_json, empty_response
from hutch_guest.processes import vfork
from hutch_guest.processes.pipes import InputPipe, settle

_READ = 256 * 1024
PYTHON = (
    *("/.hutch/lib/ld-linux-x86-64.so.2", "--library-path", "/.hutch/lib"),
    *("/.hutch/bin/python3", "-s", "-S", "-P", "-B"),
)
ENVIRONMENT = {"PYTHONHOME": "/.hutch/python"}
"""How the guest runs a Python program of its own as another process, and with what environment."""


async def list_all(guest: Guest, request: Request) -> Response:
    """What differs from the image, as lines of JSON (`changes/listing.py`). With `still=1` the rest of the sandbox
    stands still from here on, until `release`."""
    return await _streamed(guest, "list", request)


async def pack(guest: Guest, request: Request) -> Response:
    """All that was written (`changes/stream.py`), after a line {"env"}: what `prepare` was told. `still` as above."""
    return await _streamed(guest, "pack", request, dump_json({"env": guest.env}) + b"\n")


async def read(guest: Guest, request: Request) -> Response:
    """Some files, {"files": [{"path", "layer": "now" or "image"}], "most": bytes} (`changes/reading.py`)."""
    child = await _start(guest, "read")
    await child.feed(request)
    return Response(200, child.output(), "application/octet-stream")


async def restore(guest: Guest, request: Request) -> Response:
    """Put back what `pack` gave: {"restored": paths} or {"error"}."""
    child = await _start(guest, "restore")
    await child.feed(request)
    return Response(200, child.output(), "application/json")


async def release(guest: Guest, request: Request) -> Response:
    """Let the sandbox go on that stands still; nothing when it does not."""
    guest.go_on()
    return empty_response()


async def _streamed(guest: Guest, mode: str, request: Request, first: bytes = b"") -> Response:
    if not request.query.get("still"):
        child = await _start(guest, mode)
        child.source.close()
        return Response(200, child.output(), "application/octet-stream", first=first)
    guest.go_on()
    asked = guest.released
    child = await _start(guest, mode, "still")
    if guest.released != asked:
        child.close()
        raise Conflict("the sandbox was told to go on meanwhile")
    guest.still = child.source
    return Response(200, child.output(keep_source=True), "application/octet-stream", first=first)


async def _start(guest: Guest, mode: str, *options: str) -> _Child:
    """Raises `Conflict` where there is no overlay (a guest that is no PID 1)."""
    layers = guest.layers_of_disk
    if layers is None:
        raise Conflict("this sandbox has no disk of its own")
    us = f"/proc/{os.getpid()}/fd/"
    argv = [*PYTHON, CHILD, mode, f"{us}{layers.written}", f"{us}{layers.image}", "/", *options]
    theirs_in, ours_in = os.pipe2(os.O_CLOEXEC)
    ours_out, theirs_out = os.pipe2(os.O_CLOEXEC)
    try:
        await in_thread(vfork.start, argv[0], argv, ENVIRONMENT, (theirs_in, theirs_out, 2))
    except BaseException as error:  # also when the client has gone: what it would have made stand still goes on
        os.close(ours_in)
        os.close(ours_out)
        if isinstance(error, OSError):
            raise GuestError(f"the process for it cannot be started: {error.strerror}") from error
        raise
    finally:
        os.close(theirs_in)
        os.close(theirs_out)
    return _Child(InputPipe(ours_in), ours_out)


class _Child:
    """The process, as its two pipes. It ends when they are closed."""

    def __init__(self, source: InputPipe, output: int) -> None:
        self.source = source
        self._output = output
        os.set_blocking(output, False)

    def close(self) -> None:
        """It is not needed."""
        self.source.close()
        os.close(self._output)

    async def feed(self, request: Request) -> None:
        """Give it the request's body as its standard input."""
        try:
            while piece := await request.body.read():
                if self.source.open:
                    await self._give(piece)
        except BaseException:
            os.close(self._output)
            raise
        finally:
            self.source.close()

    async def _give(self, piece: bytes) -> None:
        try:
            await self.source.write(piece)
        except Conflict:
            self.source.close()  # its answer says why it reads no more

    async def output(self, keep_source: bool = False) -> Stream:
        """What it writes, to the end. `keep_source`: unless the reader goes away early."""
        done = False
        try:
            while data := await self._read():
                yield data
            done = True
        finally:
            os.close(self._output)
            if not (keep_source and done):
                self.source.close()

    async def _read(self) -> bytes:
        while True:
            try:
                return os.read(self._output, _READ)
            except BlockingIOError:
                await self._wait_for_output()

    async def _wait_for_output(self) -> None:
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self._output, settle, ready)
        try:
            await ready
        finally:
            loop.remove_reader(self._output)
