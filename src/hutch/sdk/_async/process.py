"""Processes in a sandbox: start, watch, feed, signal, wait."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from hutch.errors import Conflict, HutchError, NotFound, ServerUnavailable, from_problem
from hutch.model import ExecFrame, ExecRequest, ExecResult, ExecState, PtySize
from hutch.sdk._async.following import RETRY, AsyncPatience, as_error, lines_of
from hutch.sdk._async.transport import SILENCE, AsyncTransport, at
from hutch.sdk._shim import aio
from hutch.sdk.frames import Collector, OnText, Output, output_of
from hutch.sdk.wire import parse, parse_line

STDIN_TIMEOUT = 24 * 3600.0
"""A process may take its time to read."""


class AsyncProcess:
    """A command that runs, or has run. Its output can be read again from any offset.

    `async for output in process` gives the output as it comes, from where the last reading stopped; a connection that
    is lost is made again, and nothing comes twice or is missing.
    """

    def __init__(self, transport: AsyncTransport, sandbox_id: str, state: ExecState, offset: int = 0) -> None:
        self._transport = transport
        self._base = at("sandboxes", sandbox_id, "exec")
        self.sandbox_id = sandbox_id
        self.state = state
        self.offset = offset
        """How far the output has been read."""

    @property
    def id(self) -> str:
        return self.state.id

    @property
    def exit_code(self) -> int | None:
        """None while it runs (as far as was heard)."""
        return self.state.exit_code

    def __aiter__(self) -> AsyncIterator[Output]:
        return self.output()

    async def output(
        self, from_: int | None = None, *, follow: bool = True, timeout: float | None = None
    ) -> AsyncIterator[Output]:
        """Output from an offset, until the process ends; without `follow`, what there is."""
        self.offset = self.offset if from_ is None else from_
        patience = AsyncPatience(None if timeout is None else aio.clock() + timeout)
        while True:
            try:
                async with self._transport.stream(
                    "GET",
                    self._path("output"),
                    params={"from": self.offset, "follow": "true" if follow else "false"},
                    timeout=patience.left(SILENCE),
                ) as response:
                    async for output in self._frames(response, patience):
                        yield output
                        if output.kind == "exit":
                            return
                if not follow:
                    return
                failure: Exception = ServerUnavailable("the stream ended before the process did")
            except RETRY as error:
                failure = error
            await patience.after(failure)

    async def _frames(self, response: Any, patience: AsyncPatience) -> AsyncIterator[Output]:
        """The frames of one connection."""
        async for line in lines_of(response.aiter_text()):
            patience.check()
            if not line:
                continue
            frame = parse_line(ExecFrame, line)
            patience.progress()
            if frame.type == "error":
                raise from_problem(frame.error or {})
            self.offset = max(self.offset, frame.offset)
            self.state = frame.exec or self.state
            if output := output_of(frame):
                yield output

    async def run(self, request: ExecRequest, collector: Collector) -> ExecResult:
        """Start it with the call that also brings its output, which saves a round trip, and wait for the end."""
        body = request.model_copy(update={"stream": True}).model_dump(mode="json", exclude_defaults=True)
        patience, lost = AsyncPatience(), None
        try:
            async with self._transport.stream("POST", self._base, body=body, timeout=SILENCE) as response:
                async for output in self._frames(response, patience):
                    collector.add(output)
        except RETRY as error:
            lost = error
        if lost and not self.id:
            raise as_error(lost)
        if self.state.running or lost:
            async for output in self.output():
                collector.add(output)
        return collector.result(self.state)

    async def wait(self, timeout: float | None = None) -> ExecState:
        """The state after the end. `RequestTimeout` when that takes longer than `timeout`; the process runs on."""
        patience = AsyncPatience(None if timeout is None else aio.clock() + timeout)
        while (await self.refresh()).running:
            offset, self.offset = self.offset, self.state.output_end
            try:
                async for _ in self.output(timeout=None if timeout is None else patience.left(timeout)):
                    pass  # only for the end
            finally:
                self.offset = offset
        return self.state

    async def collect(
        self, on_stdout: OnText | None = None, on_stderr: OnText | None = None, stdin: aio.AnySource | None = None
    ) -> ExecResult:
        """Wait for the end; all output from where the last reading stopped. `stdin` is fed in meanwhile, and closed."""
        collector = Collector(on_stdout, on_stderr)
        feeder = None if stdin is None else aio.Background(self._feed, stdin)
        try:
            async for output in self.output():
                collector.add(output)
        finally:
            if feeder:
                await feeder.end()
        return collector.result(self.state)

    async def _feed(self, stdin: aio.AnySource) -> None:
        """All of `stdin`, and then its end. A process may end before it has read everything."""
        with suppress(HutchError):
            await self._transport.request(
                "POST",
                self._path("stdin"),
                params={"close": "true"},
                content=lambda: aio.body_of(stdin),
                timeout=STDIN_TIMEOUT,
            )

    async def refresh(self) -> ExecState:
        """Ask for the present state."""
        self.state = parse(ExecState, await self._transport.json("GET", self._path()))
        return self.state

    async def write(self, data: aio.AnySource) -> None:
        """Write to its standard input (or terminal), which must have been left open."""
        await self._transport.request("POST", self._path("stdin"), content=lambda: aio.body_of(data))

    async def close_stdin(self) -> None:
        """No more input."""
        await self._transport.request("POST", self._path("stdin"), params={"close": "true"}, content=bytes)

    async def signal(self, signal: str | int = "SIGTERM") -> None:
        """Send a signal to the whole process tree."""
        await self._transport.request("POST", self._path("signal"), body={"signal": signal})

    async def kill(self) -> None:
        """End the whole process tree at once. No error when it has ended already."""
        with suppress(NotFound, Conflict):
            await self.signal("SIGKILL")

    async def resize(self, cols: int, rows: int) -> None:
        """The terminal has another size."""
        size = PtySize(cols=cols, rows=rows)
        await self._transport.request("POST", self._path("resize"), body=size.model_dump(), repeat=True)

    async def remove(self) -> None:
        """Kill it and forget its output."""
        await self._transport.request("DELETE", self._path())

    def _path(self, *parts: str) -> str:
        return "/".join([self._base, self.id, *parts])
