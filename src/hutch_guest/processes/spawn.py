"""Start a program as a user, in a session of its own.

All starts happen in one thread of their own. It takes on the user's identity for the moment of the spawn, and it alone
is in the control group that limits the number of processes, so that a child is limited from its first instant.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from hutch_guest.accounts import Account
from hutch_guest.errors import GuestError, InvalidRequest, LimitReached
from hutch_guest.processes import credentials, vfork

T = TypeVar("T")
_EXHAUSTED = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE})


class Program:
    """What to start: resolved, and ready for the kernel."""

    __slots__ = ("account", "argv", "cwd", "env")

    def __init__(self, argv: list[str], env: dict[str, str], cwd: str, account: Account) -> None:
        self.argv = argv
        self.env = env
        self.cwd = cwd
        self.account = account

    def path(self) -> str:
        """The file that argv[0] means, as execvp would find it."""
        name = self.argv[0]
        if "/" in name:
            return name if name.startswith("/") else os.path.join(self.cwd, name)
        for directory in self.env.get("PATH", "").split(":"):
            candidate = os.path.join(self.cwd, directory, name)
            try:
                mode = os.stat(candidate).st_mode
            except (OSError, ValueError):
                continue
            if stat.S_ISREG(mode) and mode & 0o111:
                return candidate
        raise InvalidRequest(f"command not found: {name}", field="argv")


class Spawner:
    """The thread in which everything is started."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="spawn")
        self._pool.submit(threading.get_native_id).result()  # the thread is there before it is needed

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        """Run a function in the thread."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)

    def close(self) -> None:
        """End the thread."""
        self._pool.shutdown()


def spawn(program: Program, files: tuple[int, int, int]) -> int:
    """Start a program with these standard files and answer its pid.

    By a vfork: inside gVisor a fork copies this interpreter's address space, and that alone takes
    several times as long as all the rest.
    """
    path = program.path()
    try:
        assumed = credentials.assume(program.account)
    except PermissionError as error:
        raise InvalidRequest(f"may not run processes as '{program.account.name}'", field="user") from error
    try:
        os.chdir(program.cwd)
        return vfork.start(path, program.argv, program.env, files)
    except (OSError, ValueError) as error:
        raise start_error(error, program) from error
    finally:
        os.chdir("/")
        if assumed:
            credentials.resume()


def start_error(error: OSError | ValueError, program: Program) -> GuestError:
    """What went wrong, told with what was asked for."""
    if isinstance(error, ValueError):  # a lone surrogate
        return InvalidRequest("argv, env or cwd is no text that a program can be given", field="argv")
    reason = (error.strerror or str(error)).lower()
    if error.errno in _EXHAUSTED:
        return LimitReached(f"cannot start '{program.argv[0]}': {reason}", limit="pids")
    if not os.path.isdir(program.cwd):
        return InvalidRequest(f"cwd '{program.cwd}' does not exist", field="cwd")
    return InvalidRequest(f"cannot start '{program.argv[0]}' in '{program.cwd}': {reason}", field="argv")
