"""An agent's process as the guest tells of it: its output in a spool, which goes with its sandbox's snapshots. It knows
no more than what it was not told to forget, and notes who reads what is gone."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from hutch.errors import GuestUnavailable
from hutch.fleet.frames import Frame, FrameKind


class ModelAgent:
    """`say` prints a line; `freeze` and `thaw` are what a snapshot keeps, and what comes back with it."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.acked = 0
        self.missed: list[int] = []
        """Places from which somebody wanted to read what is gone, or was not there yet."""
        self.killed = False
        self.readers = 0
        self._cuts = 0
        self._news = asyncio.Event()

    @property
    def end(self) -> int:
        return self.frames[-1].offset if self.frames else 0

    @property
    def told_end(self) -> int:
        """What its guest says of `end`."""
        return self.end

    def say(self, record: dict[str, Any]) -> None:
        self._add(FrameKind.STDOUT, json.dumps(record).encode() + b"\n")

    def answer(self, text: str = "") -> None:
        """A turn of Claude Code, as one line."""
        id = f"msg_{len(self.frames)}_{text}"
        self.say({"type": "assistant", "message": {"id": id, "content": [{"type": "text", "text": text or id}]}})

    def exit(self, code: int = 0) -> None:
        state = {"id": "exe", "running": False, "exit_code": code, "output_end": self.end}
        self._add(FrameKind.EXIT, json.dumps(state).encode())

    def cut(self) -> None:
        """All connections are gone."""
        self._cuts += 1
        self._ring()

    def freeze(self) -> tuple[list[Frame], int]:
        return list(self.frames), self.acked

    def thaw(self, kept: tuple[list[Frame], int]) -> None:
        self.frames, self.acked = list(kept[0]), kept[1]
        self.cut()

    def output(self, start: int) -> ModelOutput:
        if not self.acked <= start <= self.end:
            self.missed.append(start)
        self.readers += 1
        return ModelOutput(self, start)

    async def wait(self) -> None:
        await self._news.wait()

    def cuts(self) -> int:
        return self._cuts

    def _add(self, kind: FrameKind, payload: bytes) -> None:
        self.frames.append(Frame(kind, self.end + 13 + len(payload), payload))
        self._ring()

    def _ring(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


class ModelOutput:
    """`hutch.fleet.Output`."""

    def __init__(self, agent: ModelAgent, start: int) -> None:
        self._agent, self._place, self._cuts = agent, start, agent.cuts()

    async def batch(self) -> list[Frame]:
        while True:
            if self._agent.cuts() != self._cuts:
                raise GuestUnavailable("cut")
            found = [frame for frame in self._agent.frames if frame.offset > self._place]
            if found:
                self._place = found[-1].offset
                return found
            if self._agent.frames and self._agent.frames[-1].kind is FrameKind.EXIT:
                return []
            await self._agent.wait()

    async def aclose(self) -> None: ...
