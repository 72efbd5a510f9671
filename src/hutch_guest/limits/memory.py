"""Relief when the sandbox is over its memory limit: the largest process dies, and everybody is told which and why."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING

from hutch_guest.limits.breach import Breach, attribute, describe_bytes, tell

if TYPE_CHECKING:
    from hutch_guest.guest import Guest


def resident_pages(pid: int) -> int:
    """Pages of memory that a process holds."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1])
    except (OSError, IndexError, ValueError):
        return 0


def largest(own: int) -> int | None:
    """The process that holds most, among those the guest has started."""
    candidates = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    sizes = {pid: resident_pages(pid) for pid in candidates if pid not in (1, own)}
    pid = max(sizes, key=lambda one: sizes[one], default=None)
    return pid if pid is not None and sizes[pid] > 0 else None


def relieve(guest: Guest, amount: int, used: int) -> Breach:
    """Kill the largest process. Answers what was done."""
    pid = largest(os.getpid())
    limit = f"memory limit {describe_bytes(amount)} reached"
    if pid is None:
        return Breach("memory", amount, used, None, None, "refused", f"{limit}; there is no process to kill")
    owner, name = attribute(guest, pid)
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGKILL)
    breach = Breach("memory", amount, used, pid, name, "process_killed", f"{limit}; process {name} killed")
    tell(guest, breach, owner)
    return breach
