"""Code in a sandbox's kernels, on behalf of the API."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from hutch.control.guests import Guests
from hutch.control.types import Stream
from hutch.errors import GuestUnavailable, HutchError
from hutch.fleet.guest_code import values
from hutch.model import CodeContext, CodeError, CodeFrame, CodeRequest, CodeResult, CodeValue, CreateCodeContext
from hutch.store import DEFAULT_ORG

MAX_TEXT = 1 << 20
"""Of standard output, and of standard error, in an answer that is not streamed."""
MAX_RESULTS = 32 << 20
"""Bytes of results in such an answer, and what their values take here beside."""
_VALUE = 64


class Code:
    """Raises `SandboxNotFound`, `SandboxNotRunning`, `PortClosed` (no code interpreter), `NotFound` (no such context),
    `InvalidRequest` (no such language), `GuestUnavailable`."""

    def __init__(self, guests: Guests) -> None:
        self._guests = guests

    async def run(self, sandbox_id: str, request: CodeRequest, *, org: str = DEFAULT_ORG) -> CodeResult:
        """Run it, and wait for its end. Whoever stops waiting interrupts it."""
        gathered = _Gathered()
        async with aclosing(await self.stream(sandbox_id, request, org=org)) as frames:
            async for frame in frames:
                if frame.type == "end":
                    return gathered.result()
                if frame.type == "problem":
                    raise GuestUnavailable(f"{sandbox_id}: the end of the code was not seen")
                gathered.add(frame)
        raise GuestUnavailable(f"{sandbox_id}: the end of the code was not seen")

    async def stream(self, sandbox_id: str, request: CodeRequest, *, org: str = DEFAULT_ORG) -> Stream[CodeFrame]:
        """Run it; the frames as they come, `end` last. Whoever closes the stream before interrupts it."""
        async with self._guests.of(sandbox_id, org) as guest:
            frames = await guest.code.run(request)
        return Stream(self._used(sandbox_id, frames), frames.aclose)

    async def contexts(self, sandbox_id: str, *, org: str = DEFAULT_ORG) -> Sequence[CodeContext]:
        """Those that there are."""
        return await self._guests.again(sandbox_id, org, lambda guest: guest.code.contexts())

    async def create_context(
        self, sandbox_id: str, request: CreateCodeContext, *, org: str = DEFAULT_ORG
    ) -> CodeContext:
        """A kernel of its own."""
        async with self._guests.of(sandbox_id, org) as guest:
            return await guest.code.create_context(request)

    async def restart_context(self, sandbox_id: str, context: str, *, org: str = DEFAULT_ORG) -> None:
        """A fresh kernel for it."""
        async with self._guests.of(sandbox_id, org) as guest:
            await guest.code.restart_context(context)

    async def remove_context(self, sandbox_id: str, context: str, *, org: str = DEFAULT_ORG) -> None:
        """End it."""
        async with self._guests.of(sandbox_id, org) as guest:
            await guest.code.remove_context(context)

    async def _used(self, sandbox_id: str, frames: AsyncGenerator[CodeFrame, None]) -> AsyncGenerator[CodeFrame, None]:
        """As long as code runs, its sandbox is used."""
        with self._guests.using(sandbox_id):
            try:
                async for frame in frames:
                    yield frame
            except HutchError as error:
                yield CodeFrame(type="problem", problem=error.to_problem())
            finally:
                await frames.aclose()


class _Gathered:
    """The frames of one run, put together."""

    def __init__(self) -> None:
        self._text = {"stdout": "", "stderr": ""}
        self._results: list[CodeValue] = []
        self._room = MAX_RESULTS
        self._error: CodeError | None = None
        self._count: int | None = None
        self._truncated = False

    def add(self, frame: CodeFrame) -> None:
        """One more."""
        if frame.type in self._text:
            kept, more = self._text[frame.type], frame.text or ""
            self._text[frame.type] = (kept + more)[:MAX_TEXT]
            self._truncated |= len(kept) + len(more) > MAX_TEXT
        elif frame.result is not None:
            text = frame.result.model_dump_json().encode()
            self._room -= len(text) + _VALUE * values(text)
            if self._room >= 0:
                self._results.append(frame.result)
            self._truncated |= self._room < 0
        self._truncated |= frame.type == "gap"
        self._error = frame.error or self._error
        self._count = frame.count if frame.count is not None else self._count

    def result(self) -> CodeResult:
        """All of it."""
        return CodeResult(
            results=self._results,
            stdout=self._text["stdout"],
            stderr=self._text["stderr"],
            error=self._error,
            count=self._count,
            truncated=self._truncated,
        )
