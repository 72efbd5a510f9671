"""Paths as callers give them, and creating what is missing on the way."""

from __future__ import annotations

import os
import stat

from hutch_guest.accounts import Account
from hutch_guest.errors import InvalidPath, from_os_error

MAX_PATH = 4096


def resolve(path: str, account: Account) -> str:
    """An absolute path: `~` is the user's home, and relative paths begin there."""
    if "\0" in path:
        raise InvalidPath("the path has a NUL")
    try:
        size = len(os.fsencode(path))
    except UnicodeEncodeError as error:
        raise InvalidPath("the path has a lone surrogate") from error
    if size > MAX_PATH:
        raise InvalidPath(f"the path is longer than {MAX_PATH} bytes")
    if path == "~" or path.startswith("~/"):
        path = account.home + path[1:]
    elif path.startswith("~"):
        raise InvalidPath(f"path '{path}': only your own home directory can be written as ~")
    return os.path.normpath(os.path.join(account.home, path))


def make_directories(path: str, account: Account) -> None:
    """Create a directory and its missing parents, 0755, owned by the account."""
    missing = []
    current = path
    while not os.path.lexists(current):
        missing.append(current)
        current = os.path.dirname(current)
    if not os.path.isdir(current):
        raise InvalidPath(f"path '{current}' is not a directory")
    for directory in reversed(missing):
        try:
            os.mkdir(directory, 0o755)
        except FileExistsError:
            continue  # somebody else was faster
        except OSError as error:
            raise from_os_error(error, directory) from error
        chown(directory, account)


def chown(target: str | int, account: Account) -> None:
    """Give a path (not what it links to) or an open file to the account, where we may."""
    if os.getuid() == 0:
        if isinstance(target, int):
            os.fchown(target, account.uid, account.gid)
        else:
            os.chown(target, account.uid, account.gid, follow_symlinks=False)


def remove(path: str) -> None:
    """Remove a file, or a directory with all that is in it; nothing there is fine."""
    import shutil

    try:
        if stat.S_ISDIR(os.lstat(path).st_mode):
            shutil.rmtree(path)
        else:
            os.unlink(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise from_os_error(error, path) from error
