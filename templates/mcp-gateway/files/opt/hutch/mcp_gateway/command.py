"""The command: what E2B's clients run when a sandbox is made with `mcp`, and `pull` for those who build templates."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mcp_gateway.installing import USER, InstallFailed, as_user, install
from mcp_gateway.servers import BadConfig, Server, package_of, servers_of

STATE = Path("/etc/mcp-gateway")
TOKEN = STATE / ".token"
"""Where E2B's clients read the token, as root."""
LOGS = Path("/var/log/mcp-gateway")
PROGRAM = "/opt/hutch/mcp-gateway/serve"
_END_SECONDS = 8.0


def main(arguments: Sequence[str]) -> int:
    """The exit status; what went wrong is on stderr."""
    parser = argparse.ArgumentParser(prog="mcp-gateway", description="MCP servers behind http://localhost:50005/mcp.")
    parser.add_argument("--config", metavar="JSON", help="Install and start these servers, instead of any others.")
    pull = parser.add_subparsers(dest="command").add_parser("pull", help="Install servers of the catalogue.")
    pull.add_argument("name", nargs="+")
    options = parser.parse_args(arguments)
    if (options.config is None) == (options.command is None):
        parser.error("one of --config and pull")
    if os.geteuid():
        return _say("mcp-gateway is run by root (sudo)")
    try:
        if options.command:
            _each(install, [package_of(name) for name in options.name])
        else:
            _start(servers_of(json.loads(options.config)))
    except json.JSONDecodeError as error:
        return _say(f"--config: no JSON: {error}")
    except (BadConfig, InstallFailed, NotStarted) as error:
        return _say(str(error))
    return 0


class NotStarted(Exception):
    """What the gateway said before it ended."""


def _start(servers: list[Server]) -> None:
    """Returns when all of them answer. One of two that are started at once waits for the other, and takes its place."""
    STATE.mkdir(mode=0o755, exist_ok=True)
    LOGS.mkdir(mode=0o755, exist_ok=True)
    with (STATE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _each(install, servers)
        _end_other()
        token = os.environ.get("GATEWAY_ACCESS_TOKEN") or str(uuid.uuid4())
        _write_private(TOKEN, token)
        _serve(token, servers)


def _serve(token: str, servers: list[Server]) -> None:
    """The gateway, as the user; it goes on when this command has ended."""
    told, tell = os.pipe()
    log_path = LOGS / "gateway.log"
    with log_path.open("ab") as log:
        shutil.chown(LOGS, USER, USER)
        process = subprocess.Popen(
            [PROGRAM, str(tell)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            pass_fds=[tell],
            start_new_session=True,
            **as_user(),
        )
    os.close(tell)
    _write_private(STATE / "pid", f"{process.pid}")
    assert process.stdin is not None
    with process.stdin as stdin:
        started = [{"name": each.name, "command": each.command, "env": each.env, "cwd": _cwd(each)} for each in servers]
        stdin.write(json.dumps({"token": token, "servers": started}).encode())
    with os.fdopen(told, "rb") as heard:
        said = heard.read()
    if said != b"ready":
        process.wait()
        raise NotStarted(said.decode(errors="replace") or f"the gateway ended: {log_path} says why")


def _end_other() -> None:
    """The gateway that runs already, if any."""
    try:
        pid = int((STATE / "pid").read_text())
        if PROGRAM.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes():
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            os.kill(pid, number)
            until = time.monotonic() + _END_SECONDS
            while Path(f"/proc/{pid}").exists() and time.monotonic() < until:
                time.sleep(0.02)
    except (OSError, ValueError):
        return  # there is none, or it has ended


def _each(work: Callable[[Server], None], servers: list[Server]) -> None:
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, servers))


def _cwd(server: Server) -> str:
    return str(server.directory if server.repository else pwd.getpwnam(USER).pw_dir)


def _write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def _say(text: str) -> int:
    sys.stderr.write(f"{text}\n")
    return 1
