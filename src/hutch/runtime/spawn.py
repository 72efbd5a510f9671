"""Start `runsc` in a sandbox's control groups, network namespace and a mount namespace of its own.

A thread of the daemon enters the namespaces, starts the program from there, and ends: namespaces are each thread's
own, and a child gets those of the thread that starts it. A helper process written in Python would cost 30 ms of CPU.
What belongs to a process as a whole (control groups) is done by a shell, which then becomes `runsc`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path

from hutch.network.aliases import add_aliases
from hutch.network.base import Slot
from hutch.runtime.hurry import Hurry

CLONE_NEWNS = 0x0002_0000
CLONE_NEWNET = 0x4000_0000
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x4_0000
OOM_SCORE = "500"
"""When the host as a whole runs out of memory, sandboxes go before daemons. Set here so that all of a sandbox's
processes have it alike: at its own limit the kernel then picks the largest, which is the guest's hog and not the
sandbox's kernel."""
PR_SET_TIMERSLACK = 29
TIMER_SLACK_NS = 5_000_000
"""How late a timer of the sandbox's kernel may go off, so that the host can serve many at once. Releases of runsc up to
2024 wake 2500 times a second for the measurements of a mechanism (systrap's fast path), even when nothing runs inside:
4.3 % of a core for each idle sandbox, 1.5 % with this. The price: a sleep inside may take 5 ms longer."""
SYSCTLS = "/proc/sys/net/core"
LINK = "eth0"

JOIN = f"""
groups=$1; shift
while [ $groups -gt 0 ]; do echo 0 > "$1" || exit 125; shift; groups=$((groups - 1)); done
echo {OOM_SCORE} > /proc/self/oom_score_adj || exit 125
exec "$@"
"""
"""First of all into the control groups: whatever happens next, a kill of them reaches it. Gone already: no start."""

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Launch:
    """What to start, and where."""

    argv: list[str]
    cgroups: list[str]
    """The files that let a process join."""
    namespace: str
    """Path of the network namespace."""
    addresses: tuple[str, ...]
    """Addresses that the link is to have beside its own."""
    meminfo: Path
    """What the program shall see as /proc/meminfo."""
    log: Path
    """File that its output is appended to."""


async def launch(order: Launch, hurry: Hurry) -> None:
    """Start it and wait for its end. Raises `OSError`. When cancelled, the program is killed."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[int] = loop.create_future()
    starter = _Starter(order)

    def run() -> None:
        result: int | OSError
        try:
            with hurry.on():
                result = starter.run()
        except OSError as error:
            result = error
        with contextlib.suppress(RuntimeError):  # the loop is closed: the daemon ends
            loop.call_soon_threadsafe(_settle, done, result)

    threading.Thread(target=run, name="launch", daemon=True).start()
    try:
        code = await done
    except asyncio.CancelledError:
        starter.cancel()
        raise
    if code != 0:
        raise OSError(f"runsc ended with status {code}")


class _Starter:
    """The thread's work, and the way to stop it."""

    def __init__(self, order: Launch) -> None:
        self._order = order
        self._lock = threading.Lock()
        self._cancelled = False
        self._process: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        """Exit status of the program. To be called in a thread that ends with this."""
        order = self._order
        enter_namespace(order.namespace)
        if order.addresses:
            add_aliases(LINK, order.addresses)
        _mask(order.meminfo)
        _check(_libc.prctl(PR_SET_TIMERSLACK, ctypes.c_ulong(TIMER_SLACK_NS)), "set the timer slack")
        with open(order.log, "ab") as log:
            with self._lock:
                if self._cancelled:
                    return -1
                self._process = subprocess.Popen(
                    ["/bin/sh", "-c", JOIN, "sh", str(len(order.cgroups)), *order.cgroups, *order.argv],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # a Ctrl-C in the daemon's terminal is not for sandboxes
                    env={"PATH": os.environ.get("PATH", os.defpath)},
                )
            return self._process.wait()

    def cancel(self) -> None:
        """End it, or let it not start."""
        with self._lock:
            self._cancelled = True
            if self._process is not None:
                self._process.kill()


def _settle(done: asyncio.Future[int], result: int | OSError) -> None:
    if done.done():
        return
    if isinstance(result, OSError):
        done.set_exception(result)
    else:
        done.set_result(result)


def namespace_of(slot: Slot) -> str:
    """Path of its network namespace."""
    return f"/run/netns/{slot.namespace}"


def enter_namespace(path: str) -> None:
    """For the calling thread, which never leaves it again. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.setns(descriptor, CLONE_NEWNET), f"enter {path}")
    finally:
        os.close(descriptor)


def _mask(meminfo: Path) -> None:
    """In a mount namespace of our own, show runsc another /proc.

    It takes a visible rmem_default for "this is the host's network namespace" and refuses to start, which is no
    longer true of kernels from 6.15 on; and it takes MemTotal for what the sandbox may have, which the guest is then
    told.
    """
    _check(_libc.unshare(CLONE_NEWNS), "unshare")
    _mount(b"none", b"/", b"none", MS_REC | MS_PRIVATE)
    if os.path.exists(SYSCTLS + "/rmem_default"):
        _mount(b"none", SYSCTLS.encode(), b"tmpfs", 0)
    _mount(os.fsencode(meminfo), b"/proc/meminfo", b"none", MS_BIND)


def _mount(source: bytes, target: bytes, kind: bytes, flags: int) -> None:
    _check(_libc.mount(source, target, kind, ctypes.c_ulong(flags), None), f"mount {target.decode()}")


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
