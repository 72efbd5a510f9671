"""Commands of a build in its sandbox. What they print is a stranger's, and is bounded."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass

from hutch.control.builds.log import INFO, MOST_LINE, WARN, BuildLog
from hutch.control.guests import Guests
from hutch.control.reading import Reading
from hutch.errors import GuestUnavailable
from hutch.fleet import FrameKind, ProcessSpec
from hutch.fleet.guest import exit_state
from hutch.model import ExecState, new_id

_MOST_ANSWER = 1 << 20


@dataclass(frozen=True)
class Command:
    """What to run: a command line for the login shell, or a program."""

    shell: str | None = None
    argv: list[str] | None = None
    user: str | None = None
    cwd: str | None = None
    env: Mapping[str, str] | None = None


class Commands:
    """In one sandbox. All raise what `Guests.of` does."""

    def __init__(self, guests: Guests, sandbox_id: str, org: str, log: BuildLog) -> None:
        self._guests = guests
        self._sandbox_id = sandbox_id
        self._org = org
        self._log = log

    async def run(self, command: Command, step: str) -> ExecState:
        """To its end, with all that it prints in the log."""
        lines = {FrameKind.STDOUT: _Lines(), FrameKind.STDERR: _Lines()}
        levels = {FrameKind.STDOUT: INFO, FrameKind.STDERR: WARN}
        self._log.tail.clear()
        _, reading = await Reading.start(self._guests, self._sandbox_id, self._org, _spec(command))
        with self._guests.using(self._sandbox_id):
            async with aclosing(reading.frames()) as frames:
                async for frame in frames:
                    if frame.kind in lines:
                        self._log.printed(lines[frame.kind].feed(frame.payload), levels[frame.kind], step)
                    elif frame.kind is FrameKind.EXIT:
                        for kind, rest in lines.items():
                            self._log.printed(rest.end(), levels[kind], step)
                        return exit_state(frame.payload)
        raise GuestUnavailable("the end of a step was not seen")

    async def ask(self, command: Command) -> tuple[ExecState, bytes]:
        """To its end; what it has printed, or the beginning of it."""
        printed = bytearray()
        _, reading = await Reading.start(self._guests, self._sandbox_id, self._org, _spec(command))
        async with aclosing(reading.frames()) as frames:
            async for frame in frames:
                if frame.kind in (FrameKind.STDOUT, FrameKind.STDERR):
                    printed += frame.payload[: _MOST_ANSWER - len(printed)]
                elif frame.kind is FrameKind.EXIT:
                    return exit_state(frame.payload), bytes(printed)
        raise GuestUnavailable("the end of a command was not seen")


def _spec(command: Command) -> ProcessSpec:
    return ProcessSpec(
        id=new_id("exe"),
        shell=command.shell,
        argv=command.argv,
        user=command.user,
        cwd=command.cwd,
        env=command.env or {},
    )


class _Lines:
    """Cuts what is printed into lines; a carriage return ends one as well, and endless ones are cut."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""

    def feed(self, data: bytes) -> Iterator[str]:
        *whole, self._rest = (self._rest + self._decoder.decode(data)).replace("\r", "\n").split("\n")
        if len(self._rest) > MOST_LINE:
            whole, self._rest = [*whole, self._rest], ""
        return (_clean(line) for line in whole if line.strip())

    def end(self) -> Iterator[str]:
        return self.feed(b"\n")


def _clean(line: str) -> str:
    """Nothing that a database or JSON could not hold."""
    return line.replace("\0", "\N{REPLACEMENT CHARACTER}").rstrip()
