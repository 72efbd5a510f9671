"""The log of one build: lines as they come, written down together now and then, and bounded."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from types import TracebackType

from hutch.store.template_logs import LogLine, TemplateLogs

DEBUG, INFO, WARN, ERROR = range(4)

MOST_LINES = 20_000
MOST_BYTES = 8 << 20
MOST_LINE = 2000
_EVERY = 0.2
_TAIL = 20


class BuildLog:
    """Use it as a context: what is left is written at its end."""

    def __init__(self, logs: TemplateLogs, build_id: str, lines: int) -> None:
        self._logs = logs
        self._build_id = build_id
        self._written = lines
        self._pending: list[LogLine] = []
        self._lines = lines
        self._bytes = 0
        self._writing: asyncio.Task[None] | None = None
        self._one = asyncio.Lock()
        self.tail: deque[str] = deque(maxlen=_TAIL)
        """The last of what the step under way has printed, also where the log is full."""

    async def __aenter__(self) -> BuildLog:
        self._writing = asyncio.create_task(self._write_forever())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.gather(self._writing, return_exceptions=True)
        await asyncio.shield(asyncio.ensure_future(self.flush()))

    def add(self, message: str, level: int = INFO, step: str | None = None) -> None:
        """One line of ours."""
        self._put(LogLine(time.time(), level, message[:MOST_LINE], step))

    def printed(self, lines: Iterable[str], level: int, step: str) -> None:
        """What a step has printed."""
        for line in lines:
            self.tail.append(line[:MOST_LINE])
            self._bytes += len(line)
            if self._lines < MOST_LINES and self._bytes < MOST_BYTES:
                self._put(LogLine(time.time(), level, line[:MOST_LINE], step))
                if self._lines == MOST_LINES or self._bytes >= MOST_BYTES:
                    self.add("What the steps print from here on is not kept: it is too much", WARN, step)

    async def flush(self) -> None:
        """Write down what there is."""
        async with self._one:
            while pending := self._pending[:500]:
                await self._logs.append(self._build_id, pending, self._written)
                self._written += len(pending)
                del self._pending[: len(pending)]

    def _put(self, line: LogLine) -> None:
        text = line.message.encode(errors="replace").decode()  # half a surrogate pair could not be stored
        self._pending.append(replace(line, message=text))
        self._lines += 1

    async def _write_forever(self) -> None:
        while True:
            await asyncio.sleep(_EVERY)
            await asyncio.shield(asyncio.ensure_future(self.flush()))
