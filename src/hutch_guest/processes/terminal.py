"""Programs in a pseudo-terminal.

A terminal becomes the controlling one by a call that the child itself makes, so this is a real fork.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import struct
import termios

from hutch_guest.errors import InvalidRequest
from hutch_guest.processes.spawn import Program, start_error

_RESET_SIGNALS = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}


def spawn_in_terminal(program: Program, cols: int, rows: int) -> tuple[int, int]:
    """Start a program in a new terminal of its user's; answers its pid and our end."""
    path = program.path()
    reader, writer = os.pipe()
    try:
        try:
            pid, master = os.forkpty()
        except OSError as error:
            raise start_error(error, program) from error
        if pid == 0:
            _become(path, program, cols, rows, writer)
        os.close(writer)
        writer = -1
        failure = os.read(reader, 16)  # the exec closes the pipe
        if failure:
            os.close(master)
            number = int(failure)
            raise start_error(OSError(number, os.strerror(number)), program)
        return pid, master
    finally:
        os.close(reader)
        if writer >= 0:
            os.close(writer)


def _become(path: str, program: Program, cols: int, rows: int, failures: int) -> None:
    """In the child: turn into the program. Never returns."""
    try:
        for number in _RESET_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        set_size(0, cols, rows)
        account = program.account
        if account.uid != os.getuid():
            os.fchown(0, account.uid, account.gid)
            os.setgroups(account.groups)
            os.setresgid(account.gid, account.gid, account.gid)
            os.setresuid(account.uid, account.uid, account.uid)
        os.chdir(program.cwd)
        os.execve(path, program.argv, program.env)  # noqa: S606
    except (OSError, ValueError) as error:
        os.write(failures, str(getattr(error, "errno", None) or errno.EINVAL).encode())
    finally:
        os._exit(127)


def set_size(master: int, cols: int, rows: int) -> None:
    """Tell the processes at the terminal its size (they get SIGWINCH)."""
    if not (0 < cols <= 10000 and 0 < rows <= 10000):
        raise InvalidRequest(f"terminal size {cols}x{rows} is out of range", field="pty")
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))
