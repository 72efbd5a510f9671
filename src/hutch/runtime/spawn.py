"""Enter a sandbox's cgroups and network namespace, then become `runsc`. Standard library only; run as a program:
`python -I -S -E spawn.py JSON`, with {"cgroups": [files], "namespace": path, "meminfo": path, "argv": [...]}.

A separate process, because what it does to itself (namespaces, mounts) must not happen to the daemon.
"""

import ctypes
import json
import os
import sys

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

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _mount(source: bytes, target: bytes, kind: bytes, flags: int) -> None:
    _check(_libc.mount(source, target, kind, ctypes.c_ulong(flags), None), f"mount {target.decode()}")


def _enter_namespace(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    _check(_libc.setns(descriptor, CLONE_NEWNET), f"enter {path}")
    os.close(descriptor)


def _mask(meminfo: str) -> None:
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


def main() -> None:
    order = json.loads(sys.argv[1])
    for path in order["cgroups"]:  # first of all: whatever happens next, a kill of the cgroup reaches it
        with open(path, "w") as file:
            file.write("0")
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write(OOM_SCORE)
    _enter_namespace(order["namespace"])
    _mask(order["meminfo"])
    _check(_libc.prctl(PR_SET_TIMERSLACK, ctypes.c_ulong(TIMER_SLACK_NS)), "set the timer slack")
    os.execvp(order["argv"][0], order["argv"])  # noqa: S606


if __name__ == "__main__":
    main()
