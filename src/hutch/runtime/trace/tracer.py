"""Has the kernels of a node's sandboxes tell what goes on inside."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import structlog

from hutch.runtime.files import TRACE
from hutch.runtime.trace import session
from hutch.runtime.trace.events import Tell
from hutch.runtime.trace.session import POINTS, Level
from hutch.runtime.trace.watch import Watch

log = structlog.get_logger("hutch.runtime")

SOCKET = "trace.sock"
_POINT = re.compile(r"^Name: ([a-z0-9_/]+),", re.MULTILINE)
_PROBE_SECONDS = 20.0


class Tracer:
    """One of a runtime. Whatever goes wrong with it, sandboxes run."""

    def __init__(self, level: Level, tell: Tell) -> None:
        self.level = level
        self._tell = tell
        self._points = POINTS[level]
        self._watches: dict[str, Watch] = {}
        self._seeding: set[asyncio.Task[None]] = set()

    async def probe(self, runsc: str) -> None:
        """Ask for no more than this release has. Nothing at all where it does not know programs' starts."""
        if not self._points:
            return
        try:
            there = set(_POINT.findall(await _metadata(runsc)))
        except (OSError, TimeoutError) as error:
            log.warning("what goes on inside sandboxes is not traced", error=str(error))
            there = set()
        self._points = tuple(each for each in self._points if each in there)
        if "sentry/execve" not in self._points:
            self._points, self.level = (), "off"

    def prepare(self, id: str, directory: Path, state: Path) -> list[str]:
        """Options for a start of `runsc`, which we hear from the first moment on. `state` is the sandbox's directory
        for sockets. Raises `OSError`."""
        if not self._points:
            return []
        self.forget(id)
        watch = self._watches[id] = Watch(id, self._tell)
        watch.listen(state / SOCKET)
        file = directory / TRACE
        file.write_text(session.at_start(self._points, state / SOCKET))
        return [f"--pod-init-config={file}"]

    async def adopt(self, id: str, control: Path) -> None:
        """Hear a kernel that another daemon has started."""
        if self._points:
            self._watches[id] = Watch(id, self._tell)
            await self.attach(id, control)

    async def attach(self, id: str, control: Path) -> None:
        """Hear the kernel behind this control socket, which runs by now."""
        if (watch := self._watches.get(id)) is None:
            return
        try:
            watch.read(await session.begin(control, self._points))
        except OSError as error:
            log.error("a sandbox is not traced", sandbox=id, error=str(error))
            return
        task = asyncio.create_task(self._seed(id, control))
        self._seeding.add(task)
        task.add_done_callback(self._seeding.discard)

    def catch_up(self, id: str) -> None:
        """Hear what a sandbox's kernel has said and is not heard yet."""
        if watch := self._watches.get(id):
            watch.catch_up()

    def forget(self, id: str) -> None:
        """It is gone; a second call does nothing."""
        if watch := self._watches.pop(id, None):
            watch.close()

    async def _seed(self, id: str, control: Path) -> None:
        """What was started before: in the snapshot that it came from, or under an earlier daemon."""
        try:
            found = await session.processes(control)
        except OSError as error:
            log.info("processes of a sandbox are not known", sandbox=id, error=str(error))
            return
        if watch := self._watches.get(id):
            watch.programs.seed(found)


async def _metadata(runsc: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *(runsc, "trace", "metadata"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(_PROBE_SECONDS):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    return output.decode(errors="replace")
