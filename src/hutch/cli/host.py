"""This machine as `hutch up` and `hutch doctor` see it: the daemons that run, the files that tell of them."""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel

from hutch.cli.probing import FAILURES, get
from hutch.errors import HutchError
from hutch.model import NodeInfo, NodeSandbox, Orphan
from hutch.settings import Settings

M = TypeVar("M", bound=BaseModel)
MODULES = ("hutch.api", "hutch.node")
"""The daemons, in the order in which they are stopped."""


class HostProblem(HutchError):
    """Something on this machine is not as it must be."""

    code = "host_problem"


def need_root(what: str) -> None:
    """Raise unless we are root."""
    if os.geteuid() != 0:
        raise HostProblem(
            f"{what} needs root: it makes network namespaces, cgroups and mounts",
            hint=f"sudo {what}. Everything else works as any user who has a key.",
        )


def ensure_user(name: str) -> bool:
    """Make the server's system user; whether it had to be made."""
    try:
        pwd.getpwnam(name)
        return False
    except KeyError:
        pass
    command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 9):  # 9: another `hutch up` was faster
        raise HostProblem(f"the system user {name!r} cannot be made: {done.stderr.strip()}", hint=" ".join(command))
    return True


@dataclass(frozen=True)
class Process:
    """A process, told from a later one of the same number by when it began."""

    pid: int
    started: int
    module: str = ""

    @property
    def alive(self) -> bool:
        """Whether it still runs (a zombie does not)."""
        return _started(self.pid) == self.started

    def signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if self.alive:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def wait(self, seconds: float) -> bool:
        """Whether it ended in time."""
        return wait_until(lambda: not self.alive, seconds)


def process(pid: int, module: str = "") -> Process | None:
    """The process of this number, if it runs."""
    started = _started(pid)
    return None if started is None else Process(pid, started, module)


def _started(pid: int) -> int | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def find_daemons(settings: Settings) -> list[Process]:
    """The daemons that serve these directories, whoever has started them."""
    mark = f"HUTCH_RUN_DIR={settings.run_dir}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
            module = next((name for name in MODULES if name.encode() in arguments and b"-m" in arguments), None)
            if module and mark in (entry / "environ").read_bytes().split(b"\0"):
                found.append(process(int(entry.name), module))
        except OSError:
            continue  # it has ended meanwhile
    return sorted((each for each in found if each), key=lambda each: MODULES.index(each.module))


def stop_processes(processes: Iterable[Process], patience: float = 20.0) -> None:
    """End them one after the other: kindly, then not."""
    for each in processes:
        each.signal(signal.SIGTERM)
        if not each.wait(patience):
            each.signal(signal.SIGKILL)
            each.wait(5)


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether `condition()` came true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


class StateFile:
    """`up.json` in the run directory, and the lock beside it that the supervisor holds as long as it lives."""

    def __init__(self, settings: Settings) -> None:
        self.path = settings.run_dir / "up.json"
        self._lock_path = settings.run_dir / "up.lock"
        self._lock: int | None = None

    def acquire(self) -> bool:
        """Become the one supervisor; False when there is one."""
        descriptor = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._lock = descriptor
        return True

    def release(self) -> None:
        """Stop being it."""
        self.path.unlink(missing_ok=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def held(self) -> bool:
        """Whether a supervisor lives."""
        if not self._lock_path.exists() or not self.acquire():
            return self._lock_path.exists()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        return False

    def write(self, **values: object) -> None:
        """Tell the others."""
        temporary = self.path.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps({"pid": os.getpid(), **values}) + "\n")
        temporary.replace(self.path)

    def read(self) -> dict[str, object]:
        """What the supervisor tells; empty when there is nothing."""
        try:
            value = json.loads(self.path.read_text())
        except (OSError, ValueError):
            return {}
        return value if isinstance(value, dict) else {}


def node_health(settings: Settings) -> NodeInfo | None:
    """What the node says of itself; None when none answers."""
    try:
        return _model(NodeInfo, get(settings.node_socket, "/health", timeout=10))
    except FAILURES:
        return None


def node_sandboxes(settings: Settings) -> list[NodeSandbox]:
    """Those that are not dead, as the node says; empty when none answers."""
    try:
        found = (get(settings.node_socket, "/sandboxes", timeout=10) or {})["sandboxes"]
        return [each for each in (_model(NodeSandbox, one) for one in found) if each.state != "dead"]
    except (*FAILURES, KeyError):
        return []


def orphans(settings: Settings) -> list[Orphan]:
    """Paused sandboxes that the node keeps and the server does not know; none when no node answers."""
    try:
        return [_model(Orphan, one) for one in (get(settings.node_socket, "/orphans", timeout=10) or {})["orphans"]]
    except (*FAILURES, KeyError):
        return []


def damaged_snapshots(settings: Settings) -> list[str]:
    """Ids of those that the node has found damaged and cannot mend; empty when none answers."""
    try:
        return [str(id) for id in (get(settings.node_socket, "/snapshots/damaged", timeout=10) or {})["snapshots"]]
    except (*FAILURES, KeyError):
        return []


def _model(model: type[M], value: object) -> M:
    """Of a node that may be of another version: fields that this one does not know are passed over."""
    return model.model_validate(value, extra="ignore")


def recorded_sandboxes(settings: Settings) -> list[str]:
    """Ids of what the node has written down as not dead, members of the warm pool among them: for when it does not
    run."""
    return [path.parent.name for path in (settings.node_dir / "sandboxes").glob("*/record.json") if not _dead(path)]


def _dead(record: Path) -> bool:
    try:
        return bool(json.loads(record.read_text())["step"] == "dead")
    except (OSError, ValueError, KeyError, TypeError):
        return False  # torn: it is looked after as one that runs


def said_url(settings: Settings, name: str) -> str | None:
    """What the server says of itself: `url`, `gateway`, or `tls` (the API by its host name)."""
    try:
        return json.loads((settings.run_dir / "api.json").read_text())[name] or None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def said_port(settings: Settings, name: str) -> int | None:
    """The port of that."""
    url = said_url(settings, name)
    return urlsplit(url).port if url else None


def server_url(settings: Settings) -> str | None:
    """Where the server says that it listens; None when it does not run or does not answer."""
    try:
        url = str(json.loads((settings.run_dir / "api.json").read_text())["url"])
        return url if get(url, "/healthz") is not None else None
    except (*FAILURES, KeyError):
        return None
