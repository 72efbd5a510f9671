"""The node's two Unix sockets: the server's group may use them, nobody else."""

from __future__ import annotations

import os
import pwd
import socket
from pathlib import Path

import structlog

from hutch.node.home import StartError

log = structlog.get_logger("hutch.node")

_LONGEST_PATH = 107
_BACKLOG = 1024


def listen(path: Path, user: str) -> socket.socket:
    """A listening socket at `path`, mode 0660, of the group of `user`. One that a dead daemon left is replaced."""
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise StartError(f"{path} is too long for a Unix socket: set HUTCH_RUN_DIR to a shorter path")
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o117)
    try:
        listener.bind(os.fspath(path))
    except OSError as error:
        listener.close()
        raise StartError(f"cannot make the socket {path}: {error.strerror}") from error
    finally:
        os.umask(before)
    group = _group(user)
    if group is not None:
        os.chown(path, 0, group)
    listener.listen(_BACKLOG)
    listener.setblocking(False)
    return listener


def _group(user: str) -> int | None:
    try:
        return pwd.getpwnam(user).pw_gid
    except KeyError:
        log.warning("no such user: only root can reach the node", user=user)
        return None
