"""Commands in a sandbox, on behalf of the API. (Signatures first; the bodies follow.)"""

from __future__ import annotations

from collections.abc import AsyncIterator

from hutch.fleet.guest import Frame
from hutch.model import ExecFrame, ExecRequest, ExecResult, ExecState, PtySize
from hutch.store import DEFAULT_ORG


class Execs:
    """Raises `SandboxNotFound`, `SandboxNotRunning`, `ExecNotFound`, `GuestUnavailable` before any stream begins."""

    async def run(self, sandbox_id: str, request: ExecRequest, *, org: str = DEFAULT_ORG) -> ExecResult:
        """Run and wait for the end; at most 1 MiB is kept of each stream."""
        raise NotImplementedError

    async def start(self, sandbox_id: str, request: ExecRequest, *, org: str = DEFAULT_ORG) -> ExecState:
        """Run in the background; answers when the process is started (`background`, PTYs)."""
        raise NotImplementedError

    async def stream(
        self, sandbox_id: str, request: ExecRequest, *, org: str = DEFAULT_ORG
    ) -> AsyncIterator[ExecFrame]:
        """Start, and give the frames: `start` first, `exit` (or `error`) last."""
        raise NotImplementedError

    async def output(
        self, sandbox_id: str, exec_id: str, *, start: int = 0, follow: bool = True, org: str = DEFAULT_ORG
    ) -> AsyncIterator[ExecFrame]:
        """Frames from offset `start`; with `follow` until the end, else what is there."""
        raise NotImplementedError

    async def raw(
        self, sandbox_id: str, exec_id: str, *, start: int = 0, org: str = DEFAULT_ORG
    ) -> AsyncIterator[Frame]:
        """The same as bytes, for terminals."""
        raise NotImplementedError

    async def list(self, sandbox_id: str, *, org: str = DEFAULT_ORG) -> list[ExecState]:
        raise NotImplementedError

    async def get(self, sandbox_id: str, exec_id: str, *, org: str = DEFAULT_ORG) -> ExecState:
        raise NotImplementedError

    async def stdin(
        self,
        sandbox_id: str,
        exec_id: str,
        data: bytes | AsyncIterator[bytes],
        *,
        close: bool = False,
        org: str = DEFAULT_ORG,
    ) -> None:
        """Write to the standard input (or the terminal)."""

    async def signal(self, sandbox_id: str, exec_id: str, signal: str | int, *, org: str = DEFAULT_ORG) -> None:
        """Send a signal (`SIGTERM`, `TERM`, 15) to the whole process tree."""

    async def resize(self, sandbox_id: str, exec_id: str, size: PtySize, *, org: str = DEFAULT_ORG) -> None: ...

    async def delete(self, sandbox_id: str, exec_id: str, *, org: str = DEFAULT_ORG) -> None:
        """Kill the tree and forget the exec."""
