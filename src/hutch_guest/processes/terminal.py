"""Pseudo-terminals."""

from __future__ import annotations

import fcntl
import os
import struct
import termios

from hutch_guest.accounts import Account
from hutch_guest.errors import InvalidRequest


def open_terminal(account: Account, cols: int, rows: int) -> tuple[int, int, str]:
    """A new terminal owned by `account`: our end, the process's end (keep it open until the spawn), its path."""
    master, slave = os.openpty()
    try:
        path = os.ttyname(slave)
        if os.getuid() == 0:
            os.fchown(slave, account.uid, account.gid)
            os.fchmod(slave, 0o620)
        set_size(master, cols, rows)
        os.set_blocking(master, False)
    except BaseException:
        os.close(master)
        os.close(slave)
        raise
    return master, slave, path


def set_size(master: int, cols: int, rows: int) -> None:
    """Tell the processes at the terminal its size (they get SIGWINCH)."""
    if not (0 < cols <= 10000 and 0 < rows <= 10000):
        raise InvalidRequest(f"terminal size {cols}x{rows} is out of range", field="pty")
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))
