"""Brings a server's program into the sandbox, unless it is there: an npm or PyPI package, or a repository."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mcp_gateway.servers import REPOSITORIES, Server

USER = "user"
"""Whom servers run as."""
_SHOWN_LINES = 15


class InstallFailed(Exception):
    """What the installer said."""


def install(server: Server) -> None:
    """Blocking. Half a one is not left behind: the next call begins anew. Raises `InstallFailed`."""
    ready = server.directory / ".installed"
    what = server.repository or server.npm or server.pypi or ""
    if ready.is_file() and ready.read_text() == f"{what}\n{server.install or ''}":
        return
    shutil.rmtree(server.directory, ignore_errors=True)
    server.directory.parent.mkdir(parents=True, exist_ok=True)
    if server.repository:
        _clone(server)
    elif server.npm:
        _run(
            server, ["npm", "install", "--no-audit", "--no-fund", "--silent", "--prefix", server.directory, server.npm]
        )
    else:
        _run(server, ["uv", "venv", "--quiet", "--python", "/usr/bin/python3", server.directory])
        python = server.directory / "bin" / "python"
        _run(server, ["uv", "pip", "install", "--quiet", "--python", python, what])
    ready.write_text(f"{what}\n{server.install or ''}")


def as_user() -> dict[str, Any]:
    """For `subprocess`: the user's process, in the home and with the environment of the command."""
    entry = pwd.getpwnam(USER)
    env = {name: value for name, value in os.environ.items() if name != "GATEWAY_ACCESS_TOKEN"}
    env |= {"HOME": entry.pw_dir, "USER": USER, "LOGNAME": USER, "GIT_TERMINAL_PROMPT": "0"}
    groups = os.getgrouplist(USER, entry.pw_gid)
    return {"cwd": entry.pw_dir, "env": env, "user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": groups}


def _clone(server: Server) -> None:
    for folder in (REPOSITORIES, server.directory.parent):
        folder.mkdir(exist_ok=True)
        shutil.chown(folder, USER, USER)
    user = as_user()
    _run(server, ["git", "clone", "--quiet", "--depth", "1", server.repository or "", server.directory], **user)
    if server.install:
        _run(server, ["/bin/bash", "-l", "-c", server.install], **user | {"cwd": server.directory})


def _run(server: Server, command: Sequence[str | Path], **how: Any) -> None:
    pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    done = subprocess.run(command, text=True, errors="replace", check=False, **pipes, **how)
    if done.returncode:
        said = "\n".join(done.stdout.strip().splitlines()[-_SHOWN_LINES:])
        raise InstallFailed(f"{server.name}: `{' '.join(map(str, command))}` failed ({done.returncode}):\n{said}")
