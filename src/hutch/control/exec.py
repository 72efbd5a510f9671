"""Commands in a sandbox, on behalf of the API."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from hutch.control.exec_frames import MAX_KEPT, FrameReader, Gathered
from hutch.control.guests import Guests
from hutch.control.reading import Reading
from hutch.control.stdin_log import StdinLog, source_of
from hutch.control.types import Stream
from hutch.errors import GuestUnavailable, HutchError
from hutch.fleet import Frame, FrameKind, ProcessSpec
from hutch.fleet.guest import exit_state
from hutch.model import ExecFrame, ExecRequest, ExecResult, ExecState, PtySize, new_id
from hutch.store import DEFAULT_ORG


class Execs:
    """Raises `SandboxNotFound`, `SandboxNotRunning`, `ExecNotFound`, `GuestUnavailable` before any stream begins."""

    def __init__(self, guests: Guests, stdin_log: StdinLog) -> None:
        self._guests = guests
        self._stdin_log = stdin_log

    async def run(self, sandbox_id: str, request: ExecRequest, *, org: str = DEFAULT_ORG) -> ExecResult:
        """Run and wait for the end; at most 1 MiB is kept of each stream, the rest is readable by offset."""
        _, reading = await Reading.start(self._guests, sandbox_id, org, _spec(request))
        gathered = Gathered(MAX_KEPT)
        async with aclosing(self._waited_for(sandbox_id, reading)) as frames:
            async for frame in frames:
                if frame.kind is FrameKind.EXIT:
                    return gathered.result(exit_state(frame.payload))
                gathered.add(frame)
        raise GuestUnavailable("the command's end was not seen")

    async def start(self, sandbox_id: str, request: ExecRequest, *, org: str = DEFAULT_ORG) -> ExecState:
        """Run in the background; answers when the process is started (`background`, PTYs)."""
        spec = _spec(request)
        return await self._guests.again(sandbox_id, org, lambda guest: guest.start(spec))

    async def stream(self, sandbox_id: str, request: ExecRequest, *, org: str = DEFAULT_ORG) -> Stream[ExecFrame]:
        """Start, and give the frames: `start` first, `exit` (or `error`) last. Whoever stops reading stops only
        reading: the command goes on."""
        state, reading = await Reading.start(self._guests, sandbox_id, org, _spec(request))
        frames = _frames(self._waited_for(sandbox_id, reading), ExecFrame(type="start", exec=state))
        return Stream(frames, reading.aclose)

    async def _waited_for(self, sandbox_id: str, reading: Reading) -> AsyncGenerator[Frame, None]:
        """Whoever waits for the end of a command uses its sandbox, however silent it is."""
        with self._guests.using(sandbox_id):
            async with aclosing(reading.frames()) as frames:
                async for frame in frames:
                    yield frame

    async def output(
        self, sandbox_id: str, exec_id: str, *, start: int = 0, follow: bool = True, org: str = DEFAULT_ORG
    ) -> Stream[ExecFrame]:
        """Frames from offset `start`; with `follow` until the end, else what is there."""
        if follow:
            reading = await Reading.open(self._guests, sandbox_id, org, exec_id, start)
            return Stream(_frames(reading.frames(), None), reading.aclose)
        async with self._guests.of(sandbox_id, org) as guest:
            output = await guest.output(exec_id, start, follow=False)
        return Stream(_frames(output, None), output.aclose)

    async def raw(self, sandbox_id: str, exec_id: str, *, start: int = 0, org: str = DEFAULT_ORG) -> Stream[Frame]:
        """The same as bytes, for terminals."""
        reading = await Reading.open(self._guests, sandbox_id, org, exec_id, start)
        return Stream(reading.frames(), reading.aclose)

    async def list(self, sandbox_id: str, *, org: str = DEFAULT_ORG) -> list[ExecState]:
        """Those that run, and those that ended of late."""
        async with self._guests.of(sandbox_id, org) as guest:
            return await guest.processes()

    async def get(self, sandbox_id: str, exec_id: str, *, org: str = DEFAULT_ORG) -> ExecState:
        """One of them."""
        async with self._guests.of(sandbox_id, org) as guest:
            return await guest.process(exec_id)

    async def stdin(
        self,
        sandbox_id: str,
        exec_id: str,
        data: bytes | AsyncIterator[bytes],
        *,
        close: bool = False,
        org: str = DEFAULT_ORG,
    ) -> None:
        """Write to the standard input (or the terminal)."""
        source = source_of(org, sandbox_id, exec_id)
        if isinstance(data, bytes):
            await self._stdin_log.note(source, data)
        else:
            data = self._stdin_log.counted(source, data)
        async with self._guests.of(sandbox_id, org) as guest:
            await guest.stdin(exec_id, data, close)

    async def signal(self, sandbox_id: str, exec_id: str, signal: str | int, *, org: str = DEFAULT_ORG) -> None:
        """Send a signal (`SIGTERM`, `TERM`, 15) to the whole process tree."""
        async with self._guests.of(sandbox_id, org) as guest:
            await guest.signal(exec_id, _named(signal))

    async def resize(self, sandbox_id: str, exec_id: str, size: PtySize, *, org: str = DEFAULT_ORG) -> None:
        """Give the terminal another size."""
        async with self._guests.of(sandbox_id, org) as guest:
            await guest.resize(exec_id, size)

    async def delete(self, sandbox_id: str, exec_id: str, *, org: str = DEFAULT_ORG) -> None:
        """Kill the tree and forget the exec."""
        async with self._guests.of(sandbox_id, org) as guest:
            await guest.forget(exec_id)


async def _frames(frames: AsyncIterator[Frame], first: ExecFrame | None) -> AsyncGenerator[ExecFrame, None]:
    reader = FrameReader()
    if first is not None:
        yield first
    try:
        async for frame in frames:
            for made in reader.read(frame):
                yield made
    except HutchError as error:
        yield ExecFrame(type="error", offset=reader.offset, error=error.to_problem())
    finally:
        if isinstance(frames, AsyncGenerator):
            await frames.aclose()  # what it holds is let go of now, not when it is collected


def _spec(request: ExecRequest) -> ProcessSpec:
    shell = isinstance(request.command, str)
    return ProcessSpec(
        id=new_id("exe"),
        shell=request.command if isinstance(request.command, str) else None,
        argv=None if shell else list(request.command),
        env=request.env,
        cwd=request.cwd,
        user=request.user,
        timeout=request.timeout,
        stdin=request.stdin.encode() if request.stdin is not None else None,
        open_stdin=request.open_stdin and request.stdin is None,
        pty=request.pty,
    )


def _named(signal: str | int) -> str | int:
    """The guest knows numbers and names with their prefix."""
    if isinstance(signal, int):
        return signal
    name = signal.strip().upper()
    if name.isdigit():
        return int(name)
    return name if name.startswith("SIG") else f"SIG{name}"
