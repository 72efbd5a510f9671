"""The `runsc` program: its command lines and its version."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from hutch.runtime.version import version_of


class Runsc:
    """Command lines for one state root."""

    def __init__(self, binary: str, state_root: Path, platform: str) -> None:
        self.binary = binary
        self.state_root = state_root
        self.platform = platform

    def run(self, id: str, directory: Path, bundle: Path, options: Sequence[str]) -> list[str]:
        """Boot a sandbox; the command ends when its PID 1 runs. `options`: more flags, of this start alone."""
        return [*self._flags(id, directory / "runsc.log"), *options, "run", *_detached(directory, bundle), id]

    def create(self, id: str, directory: Path, bundle: Path, options: Sequence[str]) -> list[str]:
        """Begin a sandbox's kernel with nothing in it; the command ends when it waits."""
        return [*self._flags(id, directory / "runsc.log"), *options, "create", *_written(directory, bundle), id]

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


def _detached(directory: Path, bundle: Path) -> list[str]:
    return ["-detach", *_written(directory, bundle)]


def _written(directory: Path, bundle: Path) -> list[str]:
    return ["-pid-file", str(directory / "pid"), "-bundle", str(bundle)]
