"""The `runsc` program: its command lines, its version, and one call of it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from hutch.runtime.version import version_of

CALL_TIMEOUT = 120.0
"""Longest time in seconds for one command on a running sandbox. A freeze takes some 2 ms for a MiB of memory."""

_MESSAGE_LIMIT = 1000


class RunscFailed(OSError):
    """A command did not do its work; the text is runsc's own."""


class ConnectionInTheWay(RunscFailed):
    """The network state could not be saved: a connection is just being opened. Another attempt may do."""


class Runsc:
    """Command lines for one state root. Every command on a sandbox must bear the flags it was started with."""

    def __init__(self, binary: str, state_root: Path, platform: str) -> None:
        self.binary = binary
        self.state_root = state_root
        self.platform = platform

    def run(self, id: str, directory: Path, bundle: Path, options: Sequence[str]) -> list[str]:
        """Boot a sandbox; the command ends when its PID 1 runs. `options`: more flags, of this start alone."""
        return [*self._flags(id, directory / "runsc.log"), *options, "run", *_detached(directory, bundle), id]

    def restore(self, id: str, directory: Path, bundle: Path, snapshot: Path, options: Sequence[str]) -> list[str]:
        """Bring a snapshot back as this sandbox; the command ends when its processes run."""
        return [
            *self._flags(id, directory / "runsc.log"),
            *options,
            "restore",
            *_detached(directory, bundle),
            f"-image-path={snapshot}",
            id,
        ]

    async def checkpoint(self, id: str, image: Path, direct: bool, hold: int) -> None:
        """Save the sandbox into `image`. It goes on afterwards, or stays paused if it was, whether or not this works:
        without `-leave-running` runsc ends it even when the save has failed. Raises `RunscFailed`; then `image` has to
        be emptied before another attempt.

        `direct` writes past the page cache: a third of the time, as there is nothing to copy and nothing left to sync,
        and no page cache that would be charged to the sandbox, which writes the files itself.
        """
        words = ("-compression=none", "-leave-running", f"-direct={str(direct).lower()}", f"-image-path={image}")
        await self._call(id, "checkpoint", *words, hold=hold)

    async def pause(self, id: str, hold: int) -> None:
        """Stop all processes inside. Raises `RunscFailed`."""
        await self._call(id, "pause", hold=hold)

    async def resume(self, id: str, hold: int) -> None:
        """Let them go on. Raises `RunscFailed`, also when the sandbox is not paused."""
        await self._call(id, "resume", hold=hold)

    def control(self, id: str) -> Path:
        """The socket of a running sandbox's kernel."""
        return self.state_root / id / f"runsc-{id}.sock"

    async def version(self) -> str:
        """Which release this is. Raises `OSError`."""
        return await asyncio.to_thread(version_of, self.binary)

    def _flags(self, id: str, log: Path) -> list[str]:
        return [
            self.binary,
            f"--root={self.state_root / id}",
            f"--log={log}",
            f"--platform={self.platform}",
            "--network=sandbox",
            # Control groups are ours (runsc's own differ between versions 1 and 2).
            "--ignore-cgroups",
            # Otherwise one connection to the outside keeps a sandbox from being frozen.
            "--net-disconnect-ok",
            # Without direct access to host files the sandbox runs as nobody, in a user namespace, with no capabilities.
            "--directfs=false",
            "--overlay2=none",
        ]

    async def _call(self, id: str, command: str, *words: str, hold: int) -> None:
        """Run one command on a running sandbox. It inherits the descriptor `hold`, and with it the lock on what that
        stands for: should we be killed, the lock is held for as long as the command goes on."""
        process = await asyncio.create_subprocess_exec(
            *(*self._flags(id, Path(os.devnull)), command, *words, id),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            pass_fds=(hold,),
        )
        try:
            async with asyncio.timeout(CALL_TIMEOUT):
                _, said = await process.communicate()
        except (TimeoutError, asyncio.CancelledError):
            process.kill()
            await process.wait()
            raise
        if process.returncode != 0:
            text = said.decode(errors="replace").strip()
            reason = text.partition("\n")[0][:_MESSAGE_LIMIT] or f"status {process.returncode}"
            if "(*Endpoint).beforeSave" in text:  # in the stack that runsc prints after its message
                raise ConnectionInTheWay("a connection to the outside is just being opened")
            raise RunscFailed(f"runsc {command}: {reason}")


def _detached(directory: Path, bundle: Path) -> list[str]:
    return ["-detach", "-pid-file", str(directory / "pid"), "-bundle", str(bundle)]
