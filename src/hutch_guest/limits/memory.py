"""Relief when the sandbox is over its memory limit: the largest process dies, and everybody is told which and why."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING

from hutch_guest.limits.breach import Breach, attribute, describe_bytes, tell
from hutch_guest.processes import tree

if TYPE_CHECKING:
    from hutch_guest.guest import Guest


def resident_pages(pid: int) -> int:
    """Pages of memory that a process holds."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1])
    except (OSError, IndexError, ValueError):
        return 0


def largest(guest: Guest) -> int | None:
    """The process that holds most: of the whole sandbox, or (in tests) of those that the guest has started."""
    if guest.system:
        candidates = {int(name) for name in os.listdir("/proc") if name.isdigit()}
    else:
        table = tree.processes()
        execs = [process for process in guest.manager.processes.values() if process.running]
        candidates = {pid for process in execs for pid in tree.members(process.id, process.pid, table)}
    sizes = {pid: resident_pages(pid) for pid in candidates - {1, os.getpid()}}
    pid = max(sizes, key=lambda one: sizes[one], default=None)
    return pid if pid is not None and sizes[pid] > 0 else None


def relieve(guest: Guest, amount: int, used: int) -> Breach:
    """Kill the largest process. Answers what was done."""
    pid = largest(guest)
    limit = f"memory limit {describe_bytes(amount)} reached"
    if pid is None:
        return Breach("memory", amount, used, None, None, "refused", f"{limit}; there is no process to kill")
    owner, name = attribute(guest, pid)
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGKILL)
    breach = Breach("memory", amount, used, pid, name, "process_killed", f"{limit}; process {name} killed")
    tell(guest, breach, owner)
    return breach
