"""What a child of the node gives up before it reads a byte from anybody, and whose the sockets are that it is given."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38


UIDS = range(61184, 64496)
"""Users that belong to nobody (systemd gives them out for as long as a service runs), for the node's children."""
_libc = ctypes.CDLL(None, use_errno=True)


def socket_of(uid: int, kind: socket.SocketKind) -> socket.socket:
    """A socket of IPv4 that the firewall takes for this user's (`meta skuid`), whoever uses it: the kernel asks who
    opened it. One that root has opened would stand outside of the rules that a child is held by. Blocks this thread
    only, for two system calls."""
    before = _libc.setfsuid(uid)  # of this thread alone
    try:
        return socket.socket(socket.AF_INET, kind)
    finally:
        _libc.setfsuid(before)


def give_up_privileges(uid: int, memory: int) -> None:
    """No user that owns anything, no groups, no way back; nobody looks into its memory, which is no more than
    so many bytes. It ends when the node does."""
    parent = os.getppid()
    os.chdir("/")
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    for option, value in ((_PR_SET_NO_NEW_PRIVS, 1), (_PR_SET_DUMPABLE, 0), (_PR_SET_PDEATHSIG, signal.SIGKILL)):
        if _libc.prctl(option, value, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != parent:
        raise SystemExit("the node has ended")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_NPROC, (8, 8))  # threads; none is needed
    for number in (signal.SIGINT, signal.SIGTERM):  # a Ctrl-C is the node's
        signal.signal(number, signal.SIG_IGN)
