"""A kernel that is a plain program: what it prints comes over its pipes, everything else over a socket of its own,
line by line.
"""

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

from hutch_code import results
from hutch_code.kernels import Event, Kernel, KernelStopped, Surroundings

_CHUNK = 65536
_AT_ONCE = 64
"""Chunks that are read of one pipe before others have their turn."""
_MUCH = 256
"""Events that wait for a client which does not read, before the program has to wait."""
_MAX_LINE = 32 << 20
_START_SECONDS = 30.0
END: Event = {"type": "end"}


class PipeKernel(Kernel):
    """The program, and what comes of it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: deque[Event] = deque()
        self._news = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._control: socket.socket | None = None
        self._rest = bytearray()
        self._pipes: dict[str, _Pipe] = {}
        self._held = False
        self._stopped: str | None = None
        self._ended: asyncio.Task[None] | None = None

    @abstractmethod
    def command(self, fd: int) -> list[str]:
        """What is started; `fd` is the number of its end of the socket."""

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
                self._process = await asyncio.create_subprocess_exec(
                    *self.command(theirs.fileno()),
                    cwd=cwd,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=streams["stdout"][1],
                    stderr=streams["stderr"][1],
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                )
            except OSError as error:
                raise KernelStopped(f"the kernel could not be started: {error}") from None
            finally:
                for _, end in streams.values():
                    os.close(end)
        self._listen()
        self._loop.add_reader(self._control, self._hear)
        self._ended = asyncio.create_task(self._wait())
        try:
            async with asyncio.timeout(_START_SECONDS):
                async for _ in self._answers():
                    pass
        except TimeoutError:
            raise KernelStopped("the kernel did not start in time") from None

    async def execute(self, code: str, around: Surroundings) -> AsyncGenerator[Event, None]:
        self._events.clear()
        assert self._control is not None
        with contextlib.suppress(OSError):  # it has ended: that is told below
            await self._loop.sock_sendall(self._control, self.request(code, around) + b"\n")
        async for event in self._answers():
            yield event

    def interrupt(self) -> None:
        self._signal(signal.SIGINT)

    async def kill(self, reason: str) -> None:
        self._stop(reason)
        self._signal(signal.SIGKILL)
        if self._ended is not None:
            await self._ended

    async def _answers(self) -> AsyncGenerator[Event, None]:
        while True:
            while self._events:
                event = self._events.popleft()
                if event["type"] == END["type"]:
                    return
                yield event
            if self._stopped is not None:
                raise KernelStopped(self._stopped)
            self._listen()
            self._news.clear()
            await self._news.wait()

    def _add(self, event: Event) -> None:
        self._events.append(event)
        self._news.set()
        if len(self._events) >= _MUCH and not self._held:
            self._held = True
            for pipe in self._pipes.values():
                self._loop.remove_reader(pipe.fd)

    def _listen(self) -> None:
        self._held = False
        for pipe in self._pipes.values():
            if pipe.open:
                self._loop.add_reader(pipe.fd, self._drain, pipe)

    def _drain(self, pipe: _Pipe) -> None:
        if not pipe.read():
            self._loop.remove_reader(pipe.fd)
            pipe.close()

    def _hear(self) -> None:
        assert self._control is not None
        try:
            data = self._control.recv(_CHUNK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._control)
            return
        self._rest += data
        if len(self._rest) > _MAX_LINE:
            self._rest.clear()
            return
        *lines, tail = self._rest.split(b"\n")
        self._rest = bytearray(tail)
        for line in lines:
            self._printed()  # what was printed before it
            for event in self.answer(bytes(line)):
                self._add(event)

    def _printed(self, final: bool = False) -> None:
        for pipe in self._pipes.values():
            if pipe.open:
                self._drain(pipe)
            if final:
                pipe.flush()

    async def _wait(self) -> None:
        assert self._process is not None
        code = await self._process.wait()
        self._printed(final=True)
        self._stop(_ending(code))

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    def _stop(self, how: str) -> None:
        if self._stopped is not None:
            return
        self._stopped = how
        for pipe in self._pipes.values():
            if pipe.open:
                self._loop.remove_reader(pipe.fd)
                pipe.close()
        if self._control is not None:
            self._loop.remove_reader(self._control)
            self._control.close()
        self._news.set()


class _Pipe:
    """What the program prints on one of its streams."""

    def __init__(self, name: str, fd: int, add: Callable[[Event], None]) -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        self.open = True
        self._name = name
        self._add = add
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def read(self) -> bool:
        """Take what has come; False at the end of it all."""
        for _ in range(_AT_ONCE):
            try:
                data = os.read(self.fd, _CHUNK)
            except BlockingIOError:
                return True
            if not data:
                return False
            self._tell(self._decoder.decode(data))
        return True

    def flush(self) -> None:
        """A character that was cut stays cut."""
        self._tell(self._decoder.decode(b"", final=True))

    def close(self) -> None:
        self.open = False
        os.close(self.fd)

    def _tell(self, text: str) -> None:
        if text:
            self._add(results.output(self._name, text))


def _ending(code: int) -> str:
    if code >= 0:
        return f"the kernel ended with exit code {code}"
    try:
        return f"the kernel was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"the kernel was killed by signal {-code}"
