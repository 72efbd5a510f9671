"""A kernel that is told over a socket what to run, and answers there, line by line; what it prints goes into pipes."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import os
import signal
import socket
from abc import abstractmethod
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from hutch_code import results
from hutch_code.kernels import Event, Kernel, KernelStopped, Surroundings
from hutch_code.processes import Process

_CHUNK = 65536
_AT_ONCE = 64
"""Chunks that are read of one pipe before others have their turn."""
_MUCH = 256
"""Events that wait for a client which does not read, before the program has to wait."""
_LITTLE = 16 << 10
_PAUSE = 0.02
"""Seconds in which no more is read of a pipe of which little, so many bytes, was read. Longer is seen, and shorter
makes an event of every line of a program that prints many."""
_MAX_LINE = 32 << 20
_START_SECONDS = 60.0
_SAID = 1000
"""Characters of what a kernel said before it ended instead of starting."""
END: Event = {"type": "end"}


class PipeKernel(Kernel):
    """The program, and what comes of it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: deque[Event] = deque()
        self._news = asyncio.Event()
        self._process: Process | None = None
        self._control: socket.socket | None = None
        self._rest = bytearray()
        self._pipes: dict[str, _Pipe] = {}
        self._busy = False
        self._held = False
        self._stopped: str | None = None

    @abstractmethod
    async def launch(self, cwd: str, control: int, out: int, err: int) -> Process:
        """Start it with these as its end of the socket, and of the pipes. Raises `KernelStopped`."""

    @abstractmethod
    def request(self, code: str, around: Surroundings) -> bytes:
        """The line that has it run code."""

    @abstractmethod
    def answer(self, line: bytes) -> list[Event]:
        """What a line of its stands for; `END` when it waits for code."""

    @property
    def stopped(self) -> str | None:
        return self._stopped

    async def start(self, cwd: str) -> None:
        self._control, theirs = socket.socketpair()
        self._control.setblocking(False)
        with theirs:
            streams = {"stdout": os.pipe(), "stderr": os.pipe()}
            self._pipes = {name: _Pipe(name, end, self._add) for name, (end, _) in streams.items()}
            try:
                ends = (end for _, end in streams.values())
                self._process = await self.launch(cwd, theirs.fileno(), *ends)
            finally:
                for _, end in streams.values():
                    os.close(end)
        self._listen()
        self._loop.add_reader(self._control, self._hear)
        self._process.ended.add_done_callback(self._end)
        said = ""
        try:
            async with asyncio.timeout(_START_SECONDS), aclosing(self._answers()) as answers:
                async for event in answers:
                    said += event.get("text", "") if event["type"] == "stderr" else ""
        except TimeoutError:
            raise KernelStopped("the kernel did not start in time") from None
        except KernelStopped as stopped:
            raise KernelStopped(f"{stopped}: {said[-_SAID:].strip() or 'it said nothing'}") from None

    def execute(self, code: str, around: Surroundings) -> AsyncGenerator[Event, None]:
        return self._answers((code, around))

    def interrupt(self) -> None:
        self._signal(signal.SIGINT)

    async def kill(self, reason: str) -> None:
        self._stop(reason)
        self._signal(signal.SIGKILL)
        if self._process is not None:
            await asyncio.wait([self._process.ended])

    async def _answers(self, *asked: tuple[str, Surroundings]) -> AsyncGenerator[Event, None]:
        """What comes until it waits for code: of this code, or of its start."""
        self._busy = True
        try:
            for code, around in asked:
                await self._send(self.request(code, around) + b"\n")
            while True:
                while self._events:
                    event = self._events.popleft()
                    if event["type"] == END["type"]:
                        return
                    yield event
                if self._stopped is not None:
                    raise KernelStopped(self._stopped)
                self._release()
                self._news.clear()
                await self._news.wait()
        finally:
            self._busy = False
            self._events.clear()
            self._release()

    async def _send(self, line: bytes) -> None:
        assert self._control is not None
        with contextlib.suppress(OSError):  # it has ended: that is told elsewhere
            await self._loop.sock_sendall(self._control, line)

    def _add(self, event: Event) -> None:
        if not self._busy:
            return  # nobody listens, and what prints in the background does not have to wait until somebody does
        self._events.append(event)
        self._news.set()
        if len(self._events) >= _MUCH and not self._held:
            self._held = True
            for pipe in self._pipes.values():
                self._loop.remove_reader(pipe.fd)

    def _release(self) -> None:
        if self._held and self._stopped is None:
            self._held = False
            self._listen()

    def _listen(self) -> None:
        for pipe in self._pipes.values():
            if pipe.open:
                self._loop.add_reader(pipe.fd, self._ready, pipe)

    def _ready(self, pipe: _Pipe) -> None:
        """Something was printed. What comes right after it comes together: each event costs everybody on the way."""
        if pipe.read() < _LITTLE and pipe.open:
            self._loop.remove_reader(pipe.fd)
            self._loop.call_later(_PAUSE, self._resume, pipe)

    def _resume(self, pipe: _Pipe) -> None:
        if pipe.open and not self._held:
            self._loop.add_reader(pipe.fd, self._ready, pipe)

    def _hear(self) -> bool:
        """Take some of what it has answered; whether there was any."""
        assert self._control is not None
        try:
            data = self._control.recv(_CHUNK)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._control)
            return False
        self._printed()  # what was printed before it
        *lines, tail = data.split(b"\n")
        for line in lines:
            self._rest += line
            whole = bytes(self._rest)
            self._rest.clear()
            for event in self.answer(whole):
                self._add(event)
        self._rest += tail
        if len(self._rest) > _MAX_LINE:
            self._rest.clear()  # what is left of the line cannot be read, which is told
        return True

    def _printed(self, final: bool = False) -> None:
        for pipe in self._pipes.values():
            if pipe.open:
                pipe.read()
            if final:
                pipe.flush()

    def _end(self, ended: asyncio.Future[str]) -> None:
        if self._stopped is None:
            while self._hear():
                pass
            self._printed(final=True)
            self._stop(ended.result())

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and not self._process.ended.done():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    def _stop(self, how: str) -> None:
        if self._stopped is not None:
            return
        self._stopped = how
        for pipe in self._pipes.values():
            if pipe.open:
                pipe.close()
        if self._control is not None:
            self._loop.remove_reader(self._control)
            self._control.close()
        self._news.set()


class _Pipe:
    """What the program prints on one of its streams."""

    def __init__(self, name: str, fd: int, add: Callable[[Event], None]) -> None:
        os.set_blocking(fd, False)
        self._loop = asyncio.get_running_loop()
        self.fd = fd
        self.open = True
        self._name = name
        self._add = add
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def read(self) -> int:
        """Take what has come, so many bytes; closed at the end of it all."""
        size = 0
        for _ in range(_AT_ONCE):
            try:
                data = os.read(self.fd, _CHUNK)
            except BlockingIOError:
                break
            if not data:
                self.close()
                break
            size += len(data)
            self._tell(self._decoder.decode(data))
        return size

    def flush(self) -> None:
        """A character that was cut stays cut."""
        self._tell(self._decoder.decode(b"", final=True))

    def close(self) -> None:
        self.open = False
        self._loop.remove_reader(self.fd)
        os.close(self.fd)

    def _tell(self, text: str) -> None:
        if text:
            self._add(results.output(self._name, text))
