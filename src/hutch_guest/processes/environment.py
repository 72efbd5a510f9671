"""The environment and working directory that a process starts with."""

from __future__ import annotations

import os
from collections.abc import Mapping

from hutch_guest.accounts import Account
from hutch_guest.errors import InvalidRequest
from hutch_guest.processes.tree import MARK

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def build(account: Account, layers: list[Mapping[str, str]], exec_id: str) -> dict[str, str]:
    """The user's own variables, then the layers (later ones win), then the mark by which the tree is found."""
    env = {"PATH": DEFAULT_PATH, "HOME": account.home, "USER": account.name, "LOGNAME": account.name}
    for layer in layers:
        env.update(layer)
    env[MARK] = exec_id
    return env


def check(env: object) -> dict[str, str]:
    """An environment from outside: names and values that a process can have."""
    if env is None:
        return {}
    if not isinstance(env, dict):
        raise InvalidRequest("env is not an object of strings", field="env")
    for name, value in env.items():
        if not isinstance(value, str) or not isinstance(name, str):
            raise InvalidRequest("env is not an object of strings", field="env")
        if not name or "=" in name or "\0" in name or "\0" in value:
            raise InvalidRequest(f"'{name[:64]}' is not an environment variable", field="env")
    return env


def working_directory(wanted: str | None, account: Account, default: str | None) -> str:
    """Where a process starts: as asked (`~` and relative paths: from home), else the default, home, or the root."""
    if wanted:
        if wanted == "~" or wanted.startswith("~/"):
            return account.home + wanted[1:]
        return wanted if wanted.startswith("/") else os.path.join(account.home, wanted)
    return next((path for path in (default, account.home) if path and os.path.isdir(path)), "/")


def login_shell(command: str) -> list[str]:
    """How a command line runs."""
    shell = "/bin/bash" if os.path.exists("/bin/bash") else "/bin/sh"
    return [shell, "-l", "-c", command]
