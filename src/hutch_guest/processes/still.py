"""Stopping everything in the sandbox but PID 1 and the caller."""

from __future__ import annotations

import contextlib
import os
import signal
import time

_ROUNDS = 200
_SETTLE = 0.01


def stop_all() -> None:
    """Again and again until nothing new is born: gVisor finishes a fork in spite of the signal."""
    before = -1
    for _ in range(_ROUNDS):
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGSTOP)
        count = len(_pids())
        if count == before:
            return
        before = count
        time.sleep(_SETTLE)


def stopped() -> frozenset[int]:
    """What stands still already, because somebody else has stopped it."""
    return frozenset(pid for pid in _pids() if _is_stopped(pid))


def go_on(but: frozenset[int] = frozenset()) -> None:
    """Let all go on but these."""
    if not but:
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGCONT)
        return
    for pid in _pids():
        if pid not in but and pid not in (1, os.getpid()):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGCONT)


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _is_stopped(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[:1] == [b"T"]
    except OSError:
        return False
