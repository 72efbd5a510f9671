"""The kernel of a sandbox: what a freeze asks of it, and a thaw into one that was begun ahead. The names and arguments
are those of `runsc`.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hutch.network.base import Slot
from hutch.runtime import links
from hutch.runtime.control import CALL_TIMEOUT, call

STATE, PAGES_META, PAGES = "checkpoint.img", "pages_meta.img", "pages.img"
"""The files of a snapshot, by the names under which `runsc restore` looks for them."""

_STACKS_LIMIT = 64 << 20
"""Bytes: a KiB or two for each process and thread inside."""
_MESSAGE_LIMIT = 1000
_COUNTERS = ("current_established", "current_open", "active_connection_openings", "passive_connection_openings")
_SAVE = {"metadata": {"compression": "none"}, "have_pages_file": True, "Resume": True}
"""It goes on after the save, unless it was paused before: without `Resume` it ends, also when the save has failed."""
_LOAD = {"HavePagesFile": True, "HaveDeviceFile": False}


class KernelRefused(OSError):
    """It has not done what it was asked for; the text is its own."""


class ConnectionInTheWay(KernelRefused):
    """The network state could not be saved: a connection is just being opened. Another attempt may do."""


@dataclass(frozen=True)
class Connections:
    """What a sandbox's own kernel says of its TCP connections. One over its loopback counts twice."""

    established: int
    open: int
    """Those of which a socket may be left: also where one end, or both, have said goodbye."""
    opened: int
    """How many there have been since it was booted or thawed."""


class Kernel:
    """One sandbox's. All raise `OSError` when it does not answer, and `KernelRefused`.

    `hold` is a descriptor that the kernel has for as long as it is at the call, and with it the lock on what that
    stands for: should we be killed, the lock is held until the call has come to its end.
    """

    def __init__(self, control: Path) -> None:
        self._control = control

    async def pause(self, hold: int) -> None:
        """Stop all processes inside. The kernel counts: as often as this they have to be let go on."""
        await self._call("containerManager.Pause", None, [hold])

    async def resume(self, hold: int) -> None:
        """Let them go on. Only after a `pause`: the kernel does not survive another."""
        await self._call("containerManager.Resume", None, [hold])

    async def paused(self) -> bool:
        """Whether all processes stand still. To be asked while nothing is being saved."""
        return all_stopped(str((await self._call("debug.Stacks", None, limit=_STACKS_LIMIT)).get("result")))

    async def save(self, directory: Path, direct: bool) -> None:
        """Write its state into files of `directory`, which has none of these names. Each is locked until that is over.

        `direct` writes past the page cache: a third of the time, as there is nothing to copy and nothing left to sync,
        and no page cache that would be charged to the sandbox, which writes the files itself.
        """
        past = os.O_DIRECT if direct else 0
        with contextlib.ExitStack() as stack:
            files = [_create(stack, directory / name) for name in (STATE, PAGES_META)]
            await self._call("containerManager.Checkpoint", _SAVE, [*files, _create(stack, directory / PAGES, past)])

    async def cut_connections(self, directory: Path) -> None:
        """Reset all TCP connections to the outside, and tell the processes that wait for them.

        gVisor does this when it is saved, but in the middle of it: what it has written of its state by then does not
        fit what follows (a descriptor that epoll reports while the epoll's list of ready ones is written), and after a
        thaw event loops spin for ever. So it is made to save before it is saved: into nothing, and the memory into a
        device that is always full, so that it gives up before any is copied. One file of the three is in `directory`,
        for its lock.
        """
        path = directory / PAGES_META
        with contextlib.ExitStack() as stack:
            nothing, full = (_open(stack, Path(device), os.O_RDWR) for device in ("/dev/null", "/dev/full"))
            try:
                with contextlib.suppress(KernelRefused):
                    files = [nothing, _create(stack, path), full]
                    await self._call("containerManager.Checkpoint", _SAVE, files)
            finally:
                path.unlink(missing_ok=True)

    async def link(self, slot: Slot, earlier: Sequence[str]) -> None:
        """One with nothing in it: have the link of its slot, and addresses of earlier ones."""

        def link() -> None:
            with links.open_link(slot) as packets:
                self._call_now(links.METHOD, links.arguments(slot, earlier, packets), [packets.fileno()])

        await asyncio.to_thread(link)

    async def load(self, snapshot: Path, seconds: float) -> None:
        """One with nothing in it: be what the snapshot in this directory is, and go on; within so many seconds."""

        def load() -> None:
            with contextlib.ExitStack() as stack:
                files = [_open(stack, snapshot / name, os.O_RDONLY) for name in (STATE, PAGES_META, PAGES)]
                self._call_now("containerManager.Restore", _LOAD, files, seconds=seconds)

        await asyncio.to_thread(load)

    async def connections(self) -> Connections | None:
        """None where it cannot tell."""
        wanted = {"only_metrics": f"^netstack_tcp_({'|'.join(_COUNTERS)})$"}
        try:
            data = (await self._call("Metrics.Export", wanted))["result"]["snapshot"]["data"]
            counts = {each["metric"]["name"]: int(each["val"].get("int", 0)) for each in data}
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return None
        if not counts:
            return None
        # What was never counted is not there.
        established, still_open, *opened = (counts.get(f"netstack_tcp_{name}", 0) for name in _COUNTERS)
        return Connections(established, still_open, sum(opened))

    async def _call(
        self, method: str, arguments: object, files: Sequence[int] = (), limit: int = 1 << 20
    ) -> dict[str, Any]:
        return await asyncio.to_thread(self._call_now, method, arguments, files, limit)

    def _call_now(
        self,
        method: str,
        arguments: object,
        files: Sequence[int],
        limit: int = 1 << 20,
        seconds: float = CALL_TIMEOUT,
    ) -> dict[str, Any]:
        answer = call(self._control, method, arguments, files, limit, seconds)
        if not answer.get("success"):
            said = str(answer.get("err"))
            if "(*Endpoint).beforeSave" in said:  # in the stack that follows its message
                raise ConnectionInTheWay("a connection to the outside is just being opened")
            raise KernelRefused(f"{method}: {said.partition(chr(10))[0][:_MESSAGE_LIMIT]}")
        return answer


def all_stopped(stacks: str) -> bool:
    """Whether by the stacks of a sandbox's kernel all processes inside stand still. One that was let go on, and has
    not come to it yet, is runnable."""
    tasks = [stack for stack in stacks.split("\n\n") if "kernel.(*Task).run(" in stack]
    return bool(tasks) and all("kernel.(*Task).doStop(" in task and "[sync.Cond.Wait" in task for task in tasks)


def _create(stack: contextlib.ExitStack, path: Path, flags: int = 0) -> int:
    """A new file, locked for as long as anybody has this descriptor."""
    descriptor = _open(stack, path, os.O_RDWR | os.O_CREAT | os.O_EXCL | flags)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor


def _open(stack: contextlib.ExitStack, path: Path, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
    stack.callback(os.close, descriptor)
    return descriptor
