"""Finding and killing everything that a process has started, including what tried to get away.

A process belongs to an exec if it carries the exec's mark in its environment, or is in a session of a member, or
descends from a member. A daemon (double fork + setsid) loses its parents but keeps the mark; one that also clears
its environment is still found through any relative that is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import time
from collections.abc import Iterator

from hutch_guest.processes import still

MARK = "HUTCH_EXEC_ID"
_ROUNDS = 200
_BROOD, _TURNS, _PATIENCE = 32, 6, 0.3


class Entry:
    """What /proc says of a process."""

    __slots__ = ("group", "pid", "ppid", "session", "zombie")

    def __init__(self, pid: int, state: str, ppid: int, group: int, session: int) -> None:
        self.pid = pid
        self.ppid = ppid
        self.group = group
        self.session = session
        self.zombie = state in "ZX"


def _read(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return b""
    try:
        return os.read(fd, 256 * 1024)
    except OSError:
        return b""
    finally:
        os.close(fd)


def entry(pid: int) -> Entry | None:
    """One process, if it exists."""
    fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    if len(fields) < 4:
        return None
    return Entry(pid, fields[0].decode(), int(fields[1]), int(fields[2]), int(fields[3]))


class Sluggish(Exception):
    """Looking at the processes takes too long: they leave us no time."""


def processes(patience: float = math.inf) -> dict[int, Entry]:
    """All processes. Raises `Sluggish` when that takes longer than `patience`."""
    end = time.monotonic() + patience
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (one := entry(int(name))) is not None:
            found[one.pid] = one
        if time.monotonic() > end:
            raise Sluggish
    return found


def mark_of(pid: int) -> str | None:
    """The exec whose mark a process carries."""
    needle = MARK.encode() + b"="
    environ = b"\0" + _read(f"/proc/{pid}/environ")
    start = environ.find(b"\0" + needle)
    if start < 0:
        return None
    return environ[start + 1 + len(needle) :].partition(b"\0")[0].decode("utf-8", "replace")


def members(exec_id: str, root: int, table: dict[int, Entry] | None = None) -> dict[int, Entry]:
    """Every process of the exec whose first process was `root`, zombies included."""
    table = processes() if table is None else table
    me = table.get(os.getpid())
    if root in table and not table[root].zombie and mark_of(root) not in (None, exec_id):
        root = 0  # the pid has been given to a process of another exec
    sessions = {root} - {0}
    found: dict[int, Entry] = {}
    others = {pid: one for pid, one in table.items() if pid != 1 and pid != os.getpid()}
    if me is not None:
        sessions.discard(me.session)

    def spread() -> None:
        grown = True
        while grown:
            grown = False
            for pid, one in list(others.items()):
                if pid == root or one.session in sessions or one.ppid in found:
                    found[pid] = others.pop(pid)
                    if me is None or one.session != me.session:
                        sessions.add(one.session)
                    grown = True

    spread()
    for pid in list(others):
        if pid in others and not others[pid].zombie and mark_of(pid) == exec_id:
            found[pid] = others.pop(pid)
    spread()
    return found


def _send(entries: dict[int, Entry], number: signal.Signals) -> None:
    """Signal all of them, whole process groups at once: a group cannot fork its way out between two calls."""
    ours = os.getpgrp()
    for group in {one.group for one in entries.values()} - {0, 1, ours}:
        with contextlib.suppress(OSError):
            os.killpg(group, number)
    for pid in entries:
        with contextlib.suppress(OSError):
            os.kill(pid, number)


def signal_tree(exec_id: str, root: int, number: signal.Signals) -> int:
    """Send a signal once to every process of the exec; answers to how many."""
    alive = {pid: one for pid, one in members(exec_id, root).items() if not one.zombie}
    for pid in alive:
        with contextlib.suppress(OSError):
            os.kill(pid, number)
    return len(alive)


@contextlib.contextmanager
def frozen() -> Iterator[None]:
    """Stop everything in the sandbox but us, with one call, and let it go on at the end (a no-op outside one).

    Inside gVisor a brood of busy processes slows every single call of ours down to a good part of a second. This is
    the one call that it takes to have the machine for ourselves.
    """
    if os.getpid() != 1:
        yield
        return
    try:
        still.stop_all()
        yield
    finally:
        still.go_on()


def kill_frozen(exec_id: str, root: int) -> None:
    """Kill the members while nobody moves."""
    with frozen():
        _send(members(exec_id, root), signal.SIGKILL)


async def kill_tree(exec_id: str, root: int) -> None:
    """Kill every process of the exec. Stops them first, so that none can breed while the others die.

    A brood that is too large or too busy for that is met with everything in the sandbox frozen for a moment. (Not
    always: a shell with job control sees its jobs stop.)
    """
    stopped: set[int] = set()
    for turn in range(_ROUNDS):
        try:
            table = processes(_PATIENCE)
            alive = {pid: one for pid, one in members(exec_id, root, table).items() if not one.zombie}
        except Sluggish:
            kill_frozen(exec_id, root)
            await asyncio.sleep(0.01)
            continue
        if not alive:
            return
        fresh = {pid: one for pid, one in alive.items() if pid not in stopped}
        if len(alive) > _BROOD or turn >= _TURNS:
            kill_frozen(exec_id, root)
            await asyncio.sleep(0.01)
        elif fresh and turn % 4 != 3:
            _send(fresh, signal.SIGSTOP)
            stopped |= fresh.keys()
        else:
            _send(alive, signal.SIGKILL)
            stopped.clear()
            await asyncio.sleep(0.002 * turn)
