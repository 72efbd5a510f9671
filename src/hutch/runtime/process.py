"""Host processes that outlive the daemon, known by more than their number."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any


@cache
def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@dataclass(frozen=True)
class HostProcess:
    """A process, told from a later one with the same number by its start time and the host's boot."""

    pid: int
    start: int
    """In clock ticks since the host's boot."""
    boot: str

    @classmethod
    def of(cls, pid: int) -> HostProcess | None:
        """The process with this number; None when there is none, or only a zombie."""
        start = _start(pid)
        return None if start is None else cls(pid, start, _boot())

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> HostProcess:
        return cls(int(data["pid"]), int(data["start"]), str(data["boot"]))

    def to_dict(self) -> dict[str, Any]:
        return {"pid": self.pid, "start": self.start, "boot": self.boot}

    def alive(self) -> bool:
        """Whether it still runs."""
        return self.boot == _boot() and _start(self.pid) == self.start

    def kill(self) -> None:
        """SIGKILL it."""
        self._signal(signal.SIGKILL)

    def stop(self) -> None:
        """Let it stand still; it can be killed then."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """After a `stop`."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        """Never to a successor with its number."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            if self.alive():
                signal.pidfd_send_signal(descriptor, number)
        except ProcessLookupError:
            pass
        finally:
            os.close(descriptor)


def _start(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name, in parentheses, may hold anything; state is the first field after it, start time the 20th.
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])
