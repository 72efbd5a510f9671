"""Tasks: follow what an agent does, wait for it, stop it, fetch what it made."""

from __future__ import annotations

import builtins
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO

from hutch.errors import InternalError, ServerUnavailable
from hutch.model import Event, EventType, OutputFile, Snapshot, TaskResult, TaskState
from hutch.model import Task as TaskInfo
from hutch.sdk._async.following import RETRY, AsyncPatience, lines_of
from hutch.sdk._async.transport import LOST, SILENCE, STATE_TIMEOUT, AsyncTransport, at
from hutch.sdk._shim import aio
from hutch.sdk.requests import rollback_body
from hutch.sdk.sources import save
from hutch.sdk.untar import Seen, unpack
from hutch.sdk.wire import SseReader, event_offset, parse, parse_event


class AsyncTask:
    """One agent run. `info` is what was last heard of it."""

    def __init__(self, transport: AsyncTransport, info: TaskInfo) -> None:
        self._transport = transport
        self._base = at("tasks", info.id)
        self.info = info
        self.outputs = AsyncOutputs(self)

    @property
    def id(self) -> str:
        return self.info.id

    @property
    def sandbox_id(self) -> str:
        return self.info.sandbox_id

    @property
    def state(self) -> TaskState:
        return self.info.state

    @property
    def result(self) -> TaskResult | None:
        """How it ended; None as long as that was not heard of (see `wait`)."""
        return self.info.result

    async def refresh(self) -> TaskInfo:
        """Ask for the present state."""
        self.info = parse(TaskInfo, await self._transport.json("GET", self._base))
        return self.info

    async def events(self, from_: int = 1, timeout: float | None = None) -> AsyncIterator[Event]:
        """The events from offset `from_` as they come; ends when the task has. A `result` is the last of them, unless a
        rollback takes it back.

        A connection that is lost is made again at the next offset: no event is missing, and none comes twice.
        """
        patience = AsyncPatience(None if timeout is None else aio.clock() + timeout)
        following, over = from_, False
        while True:
            try:
                async with self._transport.stream(
                    "GET",
                    f"{self._base}/events",
                    params={"from": following, "follow": "true"},
                    headers={"Accept": "text/event-stream"},
                    timeout=patience.left(SILENCE),
                ) as response:
                    if response.status_code == 204:  # it has ended, and there is nothing after `from_`
                        return
                    reader = SseReader()
                    async for line in lines_of(response.aiter_text()):
                        patience.check()
                        for data in reader.feed(line):
                            event = parse_event(data)
                            offset = event.offset if event else event_offset(data)
                            if offset < following:
                                continue
                            following = offset + 1
                            patience.progress()
                            if event:
                                yield event
                            over = event is not None and event.type == EventType.RESULT
                if over:
                    return
                failure: Exception = ServerUnavailable("the stream ended before the task did")
            except RETRY as error:
                failure = error
            await patience.after(failure)

    async def wait(self, timeout: float | None = None) -> TaskResult:
        """Wait for the end. `RequestTimeout` when it takes longer than `timeout`; the task runs on."""
        if not (await self.refresh()).state.ended:
            async for _ in self.events(max(1, self.info.last_offset), timeout):
                pass
            await self.refresh()
        if self.info.result is None:
            raise InternalError(f"task {self.id} has ended without a result")
        return self.info.result

    async def rollback(self, turn: int | None = None, *, snapshot: str | Snapshot | None = None) -> TaskInfo:
        """Back to one of its turns, or to a snapshot of its sandbox's timeline: its agent goes on from there, with its
        files and its memory of then. Also when it has ended, as long as its sandbox is there (`keep`). Its `events` go
        on; what it has spent stays spent. `SnapshotNotFound` for a turn without a checkpoint names those that have one.
        """
        answer = await self._transport.json(
            "POST",
            f"{self._base}/rollback",
            body=rollback_body(snapshot, turn),
            timeout=max(STATE_TIMEOUT, self._transport.request_timeout),
        )
        self.info = parse(TaskInfo, answer)
        return self.info

    async def cancel(self) -> None:
        """Ask it to stop. Outputs are still collected; `wait` for the end. No error when it has ended already."""
        answer = await self._transport.request("POST", f"{self._base}/cancel", repeat=True)
        if answer.content:
            self.info = parse(TaskInfo, answer.json())


class AsyncOutputs:
    """The files that a task has made, as collected at its end. They outlive the sandbox."""

    def __init__(self, task: AsyncTask) -> None:
        self._task = task
        self._base = at("tasks", task.id, "outputs")

    async def list(self) -> list[OutputFile]:
        """Their paths and sizes."""
        return (await self._task.refresh()).outputs

    async def read(self, path: str) -> bytes:
        """One whole file."""
        answer = await self._task._transport.request("GET", f"{self._base}/files", params={"path": path})
        return answer.content

    async def download(self, path: str, to: str | os.PathLike[str] | IO[bytes]) -> int:
        """Write one file to a local path (whole or not at all) or an open file; its size."""
        chunks = self._stream(f"{self._base}/files", path)
        return await aio.consume(lambda pieces: save(pieces, to), chunks)

    async def extract(self, into: str | os.PathLike[str], seen: Seen | None = None) -> builtins.list[str]:
        """Write all files below a local directory; their paths. Nothing is written outside of it."""
        return await aio.consume(lambda pieces: unpack(pieces, Path(into), seen), self._stream(self._base, None))

    async def tar(self) -> AsyncIterator[bytes]:
        """All of them as a tar stream."""
        async for chunk in self._stream(self._base, None):
            yield chunk

    async def _stream(self, url: str, path: str | None) -> AsyncIterator[bytes]:
        transport = self._task._transport
        async with transport.stream("GET", url, params={"path": path}) as response:
            try:
                async for chunk in response.aiter_bytes():
                    yield chunk
            except LOST as error:
                raise transport.lost(error) from error
