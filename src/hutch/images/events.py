"""What a build says while it runs: small typed events, one JSON object a line on the wire."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Literal

from pydantic import Field

from hutch.model import Model, TemplateInfo

MAX_LINE = 2000
"""Longest log line that is passed on, in characters."""


class Log(Model):
    """One line that a build step printed."""

    type: Literal["log"] = "log"
    line: str


class Progress(Model):
    """A step begins: number `step` of `of`."""

    type: Literal["progress"] = "progress"
    step: int
    of: int
    text: str


class Done(Model):
    """The last event of a build that succeeded."""

    type: Literal["done"] = "done"
    template: TemplateInfo
    note: str | None = Field(None, description="What to know of it though it succeeded.")


BuildEvent = Annotated[Log | Progress | Done, Field(discriminator="type")]

Emit = Callable[[Log | Progress], Awaitable[None]]
"""Where a build sends its events. It waits when the reader is slow."""


class Steps:
    """Counts the steps of one build, so that the places that do them need not know how many there are."""

    def __init__(self, total: int, emit: Emit) -> None:
        self._total = total
        self._done = 0
        self._emit = emit

    async def next(self, text: str) -> None:
        """Say that the next step begins."""
        self._done = min(self._done + 1, self._total)
        await self._emit(Progress(step=self._done, of=self._total, text=text))

    async def log(self, line: str) -> None:
        """Pass one line of output on, shortened if need be."""
        await self._emit(Log(line=line[:MAX_LINE]))
