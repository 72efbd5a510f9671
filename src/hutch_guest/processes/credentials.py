"""Take on a user's identity for the length of one spawn.

A vfork is much cheaper than a fork, but only a real fork's child can change its identity before the exec. So the
*calling thread* takes the identity on (credentials are per thread in the kernel; the C library's setuid() would change
all threads, the raw calls do not), spawns, and takes its own back. The saved user id stays 0 for the way back; execve
drops it in the child. Not to be done in the main thread: who may signal a process is decided by that one's identity,
and `pkill -u user` must not meet PID 1.
"""

from __future__ import annotations

import ctypes
import os

from hutch_guest.accounts import Account

_SETGROUPS, _SETRESGID, _SETRESUID = {"aarch64": (159, 149, 147)}.get(os.uname().machine, (116, 119, 117))

_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long
_own_groups = os.getgroups()


def _call(number: int, *args: object) -> None:
    if _syscall(ctypes.c_long(number), *args) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _set_groups(groups: list[int]) -> None:
    array = (ctypes.c_uint32 * len(groups))(*groups)
    _call(_SETGROUPS, ctypes.c_size_t(len(groups)), array)


def _set_ids(number: int, real: int, effective: int, saved: int) -> None:
    _call(number, ctypes.c_uint32(real), ctypes.c_uint32(effective), ctypes.c_uint32(saved))


def assume(account: Account) -> bool:
    """Become `account` in this thread; False when that is what we are. `resume` must follow."""
    if account.uid == os.getuid() and account.gid == os.getgid():
        return False
    try:
        _set_groups(list(account.groups))
        _set_ids(_SETRESGID, account.gid, account.gid, 0)
        _set_ids(_SETRESUID, account.uid, account.uid, 0)
    except OSError:
        resume()
        raise
    return True


def resume() -> None:
    """Take our own identity back."""
    if os.getresuid()[2] != 0:
        return  # never had the right to become another
    _set_ids(_SETRESUID, 0, 0, 0)
    _set_ids(_SETRESGID, 0, 0, 0)
    _set_groups(_own_groups)
