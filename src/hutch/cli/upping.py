"""`hutch up` and `hutch down`."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from hutch.cli.common import Json, leave, run
from hutch.cli.console import err, note, out, print_json
from hutch.cli.host import (
    HostProblem,
    StateFile,
    ensure_user,
    find_daemons,
    need_root,
    process,
    recorded_sandboxes,
    said_url,
    stop_processes,
    wait_until,
)
from hutch.cli.naming import Domain, Tls, set_names
from hutch.cli.probing import FAILURES, get
from hutch.cli.supervisor import READY_SECONDS, Supervisor, first_key_path, remove_all
from hutch.model import is_id
from hutch.sdk.config import Server, credentials_path, load_credentials, save_credentials
from hutch.settings import Settings, get_settings

DOWN_SECONDS = 120.0


def up(
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="In the background; returns when it is ready.")
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="When it stops, leave sandboxes running.")] = False,
    domain: Domain = None,
    tls: Tls = None,
    log_dir: Annotated[Path | None, typer.Option(hidden=True)] = None,
    json: Json = False,
) -> None:
    """Start Hutch on this machine: the node daemon (root) and the API server (user `hutch`).

    Starts them again when they die; killing either ends no sandbox. Ctrl-C stops both and destroys the sandboxes,
    unless --keep. The first API key is printed once and saved for this user.
    """
    need_root("hutch up")
    set_names(domain, tls)
    settings = get_settings()
    _prepare(settings)
    state = StateFile(settings)
    if detach:
        _detached(settings, state, keep, json)
    elif not state.acquire():
        raise _already(state)
    else:
        leave(run(_foreground(settings, state, log_dir, keep, json)))


def down(
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave sandboxes running; the next `hutch up` takes them over.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", hidden=True)] = False,
    json: Json = False,
) -> None:
    """Stop Hutch on this machine, and destroy its sandboxes unless --keep. Paused ones wait for the next `hutch up`."""
    need_root("hutch down")
    settings = get_settings()
    state = StateFile(settings)
    if not settings.run_dir.exists() and not settings.node_dir.exists():
        found, running = False, 0
    elif state.held:
        found, running = True, _stop_supervisor(state, keep)
    else:
        found, running = _stop_leftovers(settings, keep)
    if json:
        print_json({"stopped": found, "sandboxes": running, "kept": keep})
    elif not found:
        note("hutch was not running")
    elif running:
        note(f"stopped; {running} sandbox{'es' * (running > 1)} {'left running' if keep else 'destroyed'}")
    else:
        note("stopped")


def _prepare(settings: Settings) -> None:
    if ensure_user(settings.server_user):
        note(f"made the system user {settings.server_user!r}, which the server runs as")
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    if settings.tls_wanted:
        from hutch.tls import find_files, host_of, read_certificate

        files = find_files(settings)
        read_certificate(files.chain, files.key, host_of(settings))
    settings.run_dir.mkdir(parents=True, exist_ok=True)
    first_key_path(settings).parent.mkdir(mode=0o700, exist_ok=True)


def _already(state: StateFile) -> HostProblem:
    seen = state.read()
    return HostProblem(f"hutch is already up (pid {seen.get('pid')}, {seen.get('url')})", hint="`hutch down` stops it.")


async def _foreground(settings: Settings, state: StateFile, logs: Path | None, keep: bool, json: bool) -> int:
    """Start, say so, and stay. As the background half of `up -d` (`logs`) it leaves the saying to the other half."""
    state.write(ready=False)
    supervisor = Supervisor(settings, state, logs, keep)
    try:
        url = await supervisor.start()
        if logs is None:
            key = _claim_key(settings, url)
            _announce(url, key, None, json)
        destroyed = await supervisor.watch()
        if destroyed:
            note(f"{destroyed} sandbox{'es' * (destroyed > 1)} destroyed")
    finally:
        state.release()
    return 0


def _detached(settings: Settings, state: StateFile, keep: bool, json: bool) -> None:
    if state.held:
        url = str(state.read().get("url"))
        return _announce(url, None, settings.data_dir / "logs", json, already=True)
    logs = settings.data_dir / "logs"
    logs.mkdir(exist_ok=True, mode=0o700)
    command = [sys.executable, "-m", "hutch.cli", "up", "--log-dir", str(logs), *["--keep"] * keep]
    with (logs / "up.log").open("ab") as log:
        start = log.tell()
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    with err.status("starting"):
        try:
            ready_at = _wait_ready(state, child)
        except KeyboardInterrupt:
            child.terminate()
            raise
    if ready_at is None:
        raise HostProblem(f"it did not start\n{_tail(logs, start)}".rstrip(), hint=f"Logs: {logs}. See `hutch doctor`.")
    _announce(ready_at, _claim_key(settings, ready_at), logs, json)


def _wait_ready(state: StateFile, child: subprocess.Popen[bytes]) -> str | None:
    end = time.monotonic() + READY_SECONDS + 30
    while child.poll() is None and time.monotonic() < end:
        seen = state.read()
        if seen.get("pid") == child.pid and seen.get("ready"):
            return str(seen["url"])
        time.sleep(0.05)
    return None


def _tail(logs: Path, start: int) -> str:
    """The last words of all that was started."""
    parts = []
    for name in ("up", "node", "api"):
        path = logs / f"{name}.log"
        if path.exists():
            with path.open("rb") as file:
                file.seek(start if name == "up" else max(0, path.stat().st_size - 1500))
                lines = file.read().decode(errors="replace").strip().splitlines()[-6:]
            parts += [f"  {name}: {line}" for line in lines]
    return "\n".join(parts)


def _claim_key(settings: Settings, url: str) -> str | None:
    """The first key, if it has just been made: saved for this user, and gone from where the server left it. A key
    saved before follows the server when it moves to another port."""
    path = first_key_path(settings)
    try:
        key = path.read_text().strip()
    except FileNotFoundError:
        key = ""
    if key:
        save_credentials(Server(url, key))
        path.unlink()
        return key
    saved = load_credentials()
    if saved and saved.url != url and _fits(url, saved.api_key):
        save_credentials(Server(url, saved.api_key))
    return None


def _fits(url: str, key: str) -> bool:
    try:
        return get(url, "/v1/keys", {"Authorization": f"Bearer {key}"}) is not None
    except FAILURES:
        return False


def _announce(url: str, key: str | None, logs: Path | None, json: bool, already: bool = False) -> None:
    saved = load_credentials()
    settings = get_settings()
    names = said_url(settings, "tls")
    if json:
        said = {"url": url, "tls": names, "api_key": key, "logs": str(logs) if logs else None, "already_up": already}
        return print_json(said)
    out.print(f"hutch is {'already ' * already}up at {url}" + (f" and {names}" if names else ""))
    if names and settings.tls_self:
        note("its certificate is of a local authority: `hutch tls trust` says how clients trust it")
    if key:
        out.print(f"first API key (shown this once; saved in {credentials_path()}): {key}")
    elif saved is None or saved.url != url:
        note("no key is saved for this user: set HUTCH_API_KEY to one that you have", "yellow")
    if logs:
        note(f"logs: {logs}")
    else:
        note("Ctrl-C stops it")


def _stop_supervisor(state: StateFile, keep: bool) -> int:
    """Ask the supervisor to stop everything, and wait; the number of sandboxes it found."""
    pid = state.read().get("pid")
    supervisor = process(pid) if isinstance(pid, int) else None
    if supervisor is None:
        raise HostProblem("hutch is being started or stopped by another command", hint="Try again in a moment.")
    running = 0

    def gone() -> bool:
        nonlocal running
        running = max(running, int(str(state.read().get("sandboxes", 0))))
        return not supervisor.alive

    with err.status("stopping"):
        supervisor.signal(signal.SIGUSR1 if keep else signal.SIGTERM)
        if not wait_until(gone, DOWN_SECONDS):
            raise HostProblem(f"hutch (pid {supervisor.pid}) has not stopped", hint="Run `hutch down` again.")
    return running


def _stop_leftovers(settings: Settings, keep: bool) -> tuple[bool, int]:
    """Without a supervisor: end daemons that a killed one has left, and the sandboxes. Whether there was anything."""
    state = StateFile(settings)
    settings.run_dir.mkdir(parents=True, exist_ok=True)
    if not state.acquire():
        raise HostProblem("hutch is being started by another command", hint="Try again in a moment.")
    try:
        daemons = find_daemons(settings)
        stop_processes(daemons)
        left = recorded_sandboxes(settings)
        if not keep and (left or daemons):
            with err.status("removing sandboxes"):
                asyncio.run(remove_all(settings))
        return bool(daemons or left), sum(is_id(each, "sbx") for each in left)
    finally:
        state.release()
