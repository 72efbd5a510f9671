"""Start a program as a user, in a session of its own.

`posix_spawn` (a vfork) under borrowed credentials: measured well below fork, and the cost does not grow with our heap.
Everything here is synchronous and short: the thread that holds foreign credentials must not be switched away from.
"""

from __future__ import annotations

import errno
import os
import signal
import stat

from hutch_guest.accounts import Account
from hutch_guest.errors import InvalidRequest, LimitReached
from hutch_guest.processes import credentials

_DEFAULT_SIGNALS = [signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD]
_EXHAUSTED = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE})


def find_program(name: str, path: str, cwd: str) -> str:
    """The file that `name` means, as execvp would find it."""
    if "/" in name:
        return name if name.startswith("/") else os.path.join(cwd, name)
    for directory in path.split(":"):
        candidate = os.path.join(cwd, directory, name)
        try:
            mode = os.stat(candidate).st_mode
        except (OSError, ValueError):
            continue
        if stat.S_ISREG(mode) and mode & 0o111:
            return candidate
    raise InvalidRequest(f"command not found: {name}", field="argv")


def spawn(argv: list[str], env: dict[str, str], cwd: str, account: Account, files: tuple[int, int, int] | str) -> int:
    """Start `argv` and answer its pid. `files`: its standard files, or the path of its terminal."""
    program = find_program(argv[0], env.get("PATH", ""), cwd)
    try:
        assumed = credentials.assume(account)
    except PermissionError as error:
        raise InvalidRequest(f"may not run processes as '{account.name}'", field="user") from error
    try:
        return _spawn_here(program, argv, env, cwd, files)
    finally:
        if assumed:
            credentials.resume()


def _spawn_here(program: str, argv: list[str], env: dict[str, str], cwd: str, files: tuple[int, int, int] | str) -> int:
    try:
        os.chdir(cwd)
    except FileNotFoundError as error:
        raise InvalidRequest(f"cwd '{cwd}' does not exist", field="cwd") from error
    except OSError as error:
        raise InvalidRequest(f"cwd '{cwd}': {(error.strerror or '').lower()}", field="cwd") from error
    try:
        return os.posix_spawn(
            program, argv, env, file_actions=_actions(files), setsid=True, setsigmask=(), setsigdef=_DEFAULT_SIGNALS
        )
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        if error.errno in _EXHAUSTED:
            raise LimitReached(f"cannot start '{argv[0]}': {reason}", limit="pids") from error
        raise InvalidRequest(f"cannot start '{argv[0]}': {reason}", field="argv") from error
    finally:
        os.chdir("/")


def _actions(files: tuple[int, int, int] | str) -> list[tuple[int, ...] | tuple[int, int, str, int, int]]:
    if isinstance(files, str):  # opened by the leader of a new session, it becomes the controlling terminal
        terminal = (os.POSIX_SPAWN_OPEN, 0, files, os.O_RDWR, 0)
        return [terminal, (os.POSIX_SPAWN_DUP2, 0, 1), (os.POSIX_SPAWN_DUP2, 0, 2)]
    return [(os.POSIX_SPAWN_DUP2, fd, target) for target, fd in enumerate(files)]
