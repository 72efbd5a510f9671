"""What a child of the node gives up before it reads a byte from anybody."""

from __future__ import annotations

import ctypes
import os
import resource
import signal

_MEMORY = 1 << 30
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38


def give_up_privileges(uid: int) -> None:
    """No user that owns anything, no groups, no way back; nobody looks into its memory; and no memory without end. It
    ends when the node does."""
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getppid()
    os.chdir("/")
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    for option, value in ((_PR_SET_NO_NEW_PRIVS, 1), (_PR_SET_DUMPABLE, 0), (_PR_SET_PDEATHSIG, signal.SIGKILL)):
        if libc.prctl(option, value, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != parent:
        raise SystemExit("the node has ended")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_NPROC, (8, 8))  # threads; none is needed
    for number in (signal.SIGINT, signal.SIGTERM):  # a Ctrl-C is the node's
        signal.signal(number, signal.SIG_IGN)
