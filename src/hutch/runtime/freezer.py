"""Freezes sandboxes of gVisor: pause, save, seal; and takes it all back when that does not work."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from hutch.errors import DiskFull, FreezeFailed
from hutch.network.connections import Connection, connections_of, end_handshakes
from hutch.runtime.base import Frozen, Handle
from hutch.runtime.control import CALL_TIMEOUT
from hutch.runtime.cpu import host_cpu
from hutch.runtime.files import ORIGIN
from hutch.runtime.freezing import Freezing, find_abandoned
from hutch.runtime.kernel import ConnectionInTheWay, Connections, Kernel, KernelRefused
from hutch.runtime.manifest import Manifest, Origin

_RETRY_PAUSES = (0.02, 0.25)
"""Seconds before another save where a connection was just being opened: the first ones, growing, and the longest."""
_PATIENCE = 5.0
"""Seconds for which saves are tried again. Half-open connections end in less: those that the sandbox opens are ended by
us, and those into it (of a volume that is connected anew, say) were given up when the freeze began. That their ends are
heard of takes milliseconds, and on a busy machine longer."""
_HEARD_WITHIN = 0.1
"""Seconds in which a sandbox's kernel usually has heard of the end of a connection, also on a busy machine."""
_LOOK_AGAIN = 0.005
_NO_ROOM = "no space left on device"
_LITTLE_ROOM = 1 << 20
"""Bytes. A kernel that meets a full disk in the middle of its own state, which it writes 64 KiB at a time, does not say
so: it stumbles (a nil pointer in gVisor's `encodeState.Save`)."""


class Freezer:
    """Makes snapshots. `kernel`: that of the sandbox with this id."""

    def __init__(self, kernel: Callable[[str], Kernel]) -> None:
        self._kernel = kernel

    async def freeze(self, handle: Handle, into: Path, keep_running: bool) -> tuple[Freezing, Frozen]:
        """Save the sandbox. It runs on afterwards, or stands still and waits for its end; then the freezing that is
        given back has to be ended as well. Raises `FreezeFailed`, `DiskFull`."""
        try:
            freezing = await asyncio.to_thread(Freezing.begin, handle.directory, into)
        except OSError as error:
            raise _failure(error) from error
        try:
            return freezing, await self._save(handle, freezing, keep_running)
        except BaseException as error:
            await self._abandon(handle.id, freezing)
            if isinstance(error, OSError | ValueError):
                raise _failure(error) from error
            raise

    async def recover(self, id: str, directory: Path) -> None:
        """Let a sandbox go on that a killed daemon was about to freeze. Raises `TimeoutError`."""
        if freezing := await asyncio.to_thread(find_abandoned, directory, CALL_TIMEOUT):
            await self._abandon(id, freezing)

    async def _save(self, handle: Handle, freezing: Freezing, keep_running: bool) -> Frozen:
        """Raises `OSError`, `ValueError`."""
        origin = Origin.model_validate_json(await asyncio.to_thread((handle.directory / ORIGIN).read_bytes))
        kernel, address = self._kernel(handle.id), origin.addresses[-1]
        before = await _none_left(kernel, address) if keep_running else None
        begun = time.monotonic()
        if before is None or not await self._save_running(kernel, freezing, before):
            await self._save_paused(kernel, freezing, address)
            if keep_running:
                await kernel.resume(freezing.lock)
        saved = time.monotonic()
        files = await asyncio.to_thread(freezing.files)
        manifest = Manifest(origin=origin, cpu=host_cpu(), files=files, created_at=datetime.now(UTC))
        await asyncio.to_thread(freezing.seal, manifest)
        stopped = (saved if keep_running else time.monotonic()) - begun
        return Frozen(freezing.into, manifest.bytes, round(stopped * 1000, 1))

    async def _save_running(self, kernel: Kernel, freezing: Freezing, before: Connections) -> bool:
        """The short way, for a sandbox without connections: whether it had none until it was saved."""
        with contextlib.suppress(ConnectionInTheWay):
            await _checkpoint(kernel, freezing)
            if await kernel.connections() == before:
                return True
        await asyncio.to_thread(freezing.clear)
        return False

    async def _save_paused(self, kernel: Kernel, freezing: Freezing, address: str) -> None:
        """The sandbox is left paused: nothing runs that could open a connection, or do what nobody remembers."""
        await kernel.pause(freezing.lock)
        spoilt, pause, until = False, _RETRY_PAUSES[0], time.monotonic() + _PATIENCE
        while True:
            found = await kernel.connections()
            if spoilt:
                await asyncio.to_thread(end_handshakes, address, await _connections(address) or [])
            if spoilt or found is None or found.open:
                await kernel.cut_connections(freezing.partial)
            try:
                return await _checkpoint(kernel, freezing)
            except ConnectionInTheWay:
                if time.monotonic() >= until:
                    raise
            spoilt = True
            await asyncio.to_thread(freezing.clear)
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, _RETRY_PAUSES[1])

    async def _abandon(self, id: str, freezing: Freezing) -> None:
        """Undo a freeze: nothing of it is left, and the sandbox goes on, unless it has ended."""
        kernel = self._kernel(id)
        await asyncio.to_thread(freezing.wait, CALL_TIMEOUT)
        await asyncio.to_thread(freezing.undo)
        with contextlib.suppress(OSError):  # dead
            while await kernel.paused():
                await kernel.resume(freezing.lock)
        await asyncio.to_thread(freezing.end)


async def _checkpoint(kernel: Kernel, freezing: Freezing) -> None:
    """Raises `OSError`."""
    direct = await asyncio.to_thread(freezing.takes_direct_writes)
    try:
        await kernel.save(freezing.partial, direct)
    except KernelRefused as error:
        if not isinstance(error, ConnectionInTheWay) and await asyncio.to_thread(freezing.room) < _LITTLE_ROOM:
            raise OSError(errno.ENOSPC, _NO_ROOM) from error
        raise


async def _none_left(kernel: Kernel, address: str) -> Connections | None:
    """What the sandbox's kernel says when it holds no connection; else, or where it cannot tell, None. Those of which
    this host knows the end may still be established there: that is waited for, as a save in between would meet them."""
    found, until = await kernel.connections(), time.monotonic() + _HEARD_WITHIN
    if found is not None and found.established and _may_be_open(await _connections(address), address):
        return None
    while found is not None and found.established and time.monotonic() < until:
        await asyncio.sleep(_LOOK_AGAIN)
        found = await kernel.connections()
    return found if found is not None and not found.open else None


async def _connections(address: str) -> list[Connection] | None:
    """None where the host's kernel cannot tell."""
    try:
        return await asyncio.to_thread(connections_of, address)
    except OSError:
        return None


def _may_be_open(found: list[Connection] | None, address: str) -> bool:
    """Also when nobody can tell."""
    return found is None or any(each.open(address) for each in found)


def _failure(error: Exception) -> DiskFull | FreezeFailed:
    """What the caller is told of a freeze that came to nothing. The sandbox's id is not in it: the runtime may know it
    by another one than the caller does."""
    full = isinstance(error, OSError) and error.errno == errno.ENOSPC
    if full or _NO_ROOM in str(error):  # runsc says so in words
        return DiskFull("no room for a snapshot; the sandbox runs on", hint="Free some space where snapshots are kept.")
    if isinstance(error, ConnectionInTheWay):
        return FreezeFailed(f"the sandbox was not frozen: {error}", hint="Try again in a moment.")
    return FreezeFailed(f"the sandbox was not frozen: {error or type(error).__name__}")
