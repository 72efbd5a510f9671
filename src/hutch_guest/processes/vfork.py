"""The C library's `posix_spawn`, called so that the rest of the interpreter goes on meanwhile.

`os.posix_spawn` holds the interpreter's lock until the child has executed its program. On a busy sandbox that can take
seconds, in which the guest would answer nobody.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable

_SETSIGDEF, _SETSIGMASK, _SETSID = 0x04, 0x08, 0x80
_SIGSET = ctypes.c_ulong * 16
_Opaque = ctypes.c_char * 512
"""Larger than the C library's structures (336 and 80 bytes)."""

_libc = ctypes.CDLL(None)
_spawn = _libc.posix_spawn
_spawn.argtypes = [ctypes.c_void_p, ctypes.c_char_p, *[ctypes.c_void_p] * 4]


def _signal_set(full: bool) -> ctypes.Array[ctypes.c_ulong]:
    found = _SIGSET()
    (_libc.sigfillset if full else _libc.sigemptyset)(found)
    return found


def _strings(texts: Iterable[str]) -> ctypes.Array[ctypes.c_char_p]:
    encoded = [os.fsencode(text) for text in texts]
    return (ctypes.c_char_p * (len(encoded) + 1))(*encoded, None)


def _common_attributes() -> ctypes.Array[ctypes.c_char]:
    """What every start has in common: a session of its own, no signal blocked, none ignored."""
    attributes = _Opaque()
    _libc.posix_spawnattr_init(attributes)
    _libc.posix_spawnattr_setsigdefault(attributes, _signal_set(full=True))
    _libc.posix_spawnattr_setsigmask(attributes, _signal_set(full=False))
    _libc.posix_spawnattr_setflags(attributes, ctypes.c_short(_SETSIGDEF | _SETSIGMASK | _SETSID))
    return attributes


_attributes = _common_attributes()


def start(path: str, argv: list[str], env: dict[str, str], files: tuple[int, int, int]) -> int:
    """Start a program with these standard files; answers its pid. Raises `OSError`."""
    actions = _Opaque()
    _libc.posix_spawn_file_actions_init(actions)
    try:
        for target, fd in enumerate(files):
            _libc.posix_spawn_file_actions_adddup2(actions, fd, target)
        pid = ctypes.c_int()
        environment = _strings(f"{name}={value}" for name, value in env.items())
        code = _spawn(ctypes.byref(pid), os.fsencode(path), actions, _attributes, _strings(argv), environment)
    finally:
        _libc.posix_spawn_file_actions_destroy(actions)
    if code:
        raise OSError(code, os.strerror(code))
    return pid.value
