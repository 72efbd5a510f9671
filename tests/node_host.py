"""A node daemon of a test's own, as a real process, and the blocking client to talk to it and to its guests."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hutch.model import new_id
from tests.leaks import assert_clean
from tests.programs import Program, run

GUEST_PORT = 49983
RESOURCES = {"cpus": 1.0, "memory_mib": 512, "disk_mib": 256, "pids": 128}


@dataclass(frozen=True)
class Answer:
    """What an HTTP call gave back."""

    status: int
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Ran:
    """A command that has ended inside."""

    stdout: str
    stderr: str
    state: dict[str, Any]
    limits: list[dict[str, Any]]

    @property
    def exit_code(self) -> int | None:
        return self.state["exit_code"]  # type: ignore[no-any-return]


class _Http(http.client.HTTPConnection):
    """HTTP over a socket that is connected by this."""

    def __init__(self, connect: Callable[[float], socket.socket], timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._connect = connect

    def connect(self) -> None:
        self.sock = self._connect(self.timeout or 60)


def open_unix(path: Path, timeout: float = 60) -> socket.socket:
    """A raw connection."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(timeout)
    try:
        connection.connect(str(path))
    except OSError:
        connection.close()
        raise
    return connection


class Port(socket.socket):
    """A connection into a sandbox that a node has handed over. It is over when its leash is closed."""

    def __init__(self, path: Path, question: str, timeout: float = 60) -> None:
        self.leash = open_unix(path, timeout)
        self.leash.sendall(question.encode())
        answer, given, _, _ = socket.recv_fds(self.leash, 1024, 1)
        if not given:
            self.leash.close()
            raise ConnectionError(answer.decode())
        super().__init__(socket.AF_INET, socket.SOCK_STREAM, fileno=given[0])
        self.settimeout(timeout)

    def close(self) -> None:
        self.leash.close()
        super().close()


class NodeHost:
    """One node in directories of its own below /tmp (short, for the sockets' sake)."""

    def __init__(self, environment: dict[str, str] | None = None, **settings: str) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="hn-", dir="/tmp"))
        values = {"data_dir": str(self.root / "d"), "run_dir": str(self.root / "r"), "slots_ahead": "2", **settings}
        self._env = {
            **os.environ,
            **(environment or {}),
            **{f"HUTCH_{name.upper()}": value for name, value in values.items()},
        }
        self._process: Program | None = None

    @property
    def node_dir(self) -> Path:
        return self.root / "d" / "node"

    @property
    def id(self) -> str:
        """The node's short id."""
        return (self.node_dir / "id").read_text().strip()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def log(self) -> str:
        path = self.root / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `python -m hutch.node` with these arguments to its end."""
        return run("hutch.node", *arguments, env=self._env)

    def spawn(self) -> None:
        """Start the daemon, without waiting for it."""
        with (self.root / "log").open("ab") as log:
            self._process = Program("hutch.node", env=self._env, stdout=log, stderr=log)

    def start(self, timeout: float = 60) -> None:
        """Start the daemon and wait until it answers."""
        self.spawn()
        assert self._process is not None
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            assert self._process.poll() is None, f"the node has ended:\n{self.log()[-4000:]}"
            try:
                if self.call("GET", "/health").status == 200:
                    return
            except OSError:
                time.sleep(0.02)
        raise AssertionError(f"the node does not answer:\n{self.log()[-4000:]}")

    def kill(self) -> None:
        """`kill -9`."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def kill_if_running(self) -> None:
        """`kill -9`, where there is something to kill."""
        if self._process is not None and self._process.poll() is None:
            self.kill()

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(30)

    def stop_and_remove(self) -> bool:
        """SIGUSR1; whether there was a node that did as it is told."""
        if self._process is None or self._process.poll() is not None:
            return False
        self._process.send_signal(signal.SIGUSR1)
        try:
            return self._process.wait(60) == 0
        except subprocess.TimeoutExpired:
            self.kill()
            return False

    def close(self) -> None:
        """Remove everything of this node from the host, and check that nothing is left."""
        try:
            if not self.stop_and_remove():
                removed = self.command("--remove-all")
                assert removed.returncode == 0, removed.stderr
            assert_clean(self.id, self.root)
        finally:
            shutil.rmtree(self.root, ignore_errors=True)

    def call(self, method: str, path: str, body: Any = None, timeout: float = 60) -> Answer:
        """One call of the node's API."""
        connection = _Http(partial(open_unix, self.root / "r" / "node.sock"), timeout)
        try:
            data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
            connection.request(method, path, data)
            response = connection.getresponse()
            return Answer(response.status, response.read())
        finally:
            connection.close()

    def boot(self, id: str | None = None, **changes: Any) -> dict[str, Any]:
        """A running sandbox."""
        id = id or new_id("sbx")
        answer = self.call("PUT", f"/sandboxes/{id}", boot_request(**changes))
        assert answer.status in (200, 201), answer.body.decode() + "\n" + self.log()[-3000:]
        return answer.json()  # type: ignore[no-any-return]

    def pause(self, sandbox: dict[str, Any], snapshot: str | None = None, **options: Any) -> dict[str, Any]:
        """Pause it; what it is then."""
        return self._change(sandbox, "pause", {"snapshot": snapshot or new_id("snp"), **options})

    def resume(self, sandbox: dict[str, Any]) -> dict[str, Any]:
        """Resume it; what it is then, with its new token."""
        return self._change(sandbox, "resume")

    def snapshot(self, sandbox: dict[str, Any], **options: Any) -> dict[str, Any]:
        """A snapshot of it."""
        return self._change(sandbox, "snapshots", {"snapshot": new_id("snp"), **options})

    def rollback(self, sandbox: dict[str, Any], snapshot: str, **options: Any) -> dict[str, Any]:
        """Take it back; what it is then."""
        return self._change(sandbox, "rollback", {"snapshot": snapshot, "safety": new_id("snp"), **options})

    def snapshots(self, sandbox: str | None = None) -> list[dict[str, Any]]:
        """All snapshots, or one sandbox's."""
        found = self.call("GET", "/snapshots" + (f"?sandbox={sandbox}" if sandbox else ""))
        return found.json()["snapshots"]  # type: ignore[no-any-return]

    def _change(self, sandbox: dict[str, Any], verb: str, body: Any = None) -> dict[str, Any]:
        answer = self.call("POST", f"/sandboxes/{sandbox['id']}/{verb}", body, timeout=120)
        assert answer.status in (200, 201), answer.body.decode() + "\n" + self.log()[-3000:]
        return answer.json()  # type: ignore[no-any-return]

    def sandbox(self, id: str) -> dict[str, Any] | None:
        """What the node knows of it."""
        answer = self.call("GET", f"/sandboxes/{id}")
        return answer.json() if answer.status == 200 else None

    def wait_dead(self, id: str, timeout: float = 20) -> dict[str, Any]:
        """The sandbox, once it is dead and its end is journaled."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            if self.journal(id, "sandbox_dead"):
                found = self.sandbox(id)
                assert found is not None
                return found
            time.sleep(0.05)
        raise AssertionError(f"{id} lives on:\n{self.log()[-3000:]}")

    def journal(self, sandbox: str | None = None, kind: str | None = None) -> list[dict[str, Any]]:
        """The journal's entries, of one sandbox and kind if given; what goes on inside only if that is given."""
        entries: list[dict[str, Any]] = []
        while more := self.call("GET", f"/journal?after={entries[-1]['seq'] if entries else 0}").json()["entries"]:
            entries += more
        kinds = {e["kind"] for e in entries} - {"activity"} if kind is None else {kind}
        return [e for e in entries if sandbox in (None, e["sandbox"]) and e["kind"] in kinds]

    def port(self, sandbox: str, port: int, timeout: float = 60) -> Port:
        """A connection to a port inside. Raises `ConnectionError` with what the node says."""
        return Port(self.root / "r" / "dial.sock", f"HUTCH/2 {sandbox} {port}\n", timeout)

    def guest(self, sandbox: dict[str, Any], timeout: float = 60) -> http.client.HTTPConnection:
        """HTTP to the guest."""
        return _Http(partial(self.port, sandbox["id"], GUEST_PORT), timeout)

    def start_process(self, sandbox: dict[str, Any], shell: str, **options: Any) -> str:
        """Start a command inside and leave it running; its id."""
        id = "exe_" + secrets.token_hex(11)
        headers = {"X-Access-Token": sandbox["guest_token"], "Content-Type": "application/json"}
        body = {"id": id, "shell": shell, "stdin": "none", "retain": "tail", **options}
        with closing(self.guest(sandbox)) as connection:
            connection.request("POST", "/hutch/processes", json.dumps(body), headers)
            response = connection.getresponse()
            said = response.read()
        assert response.status == 201, said
        return id

    def follow(self, sandbox: dict[str, Any], process: str, timeout: float = 60) -> Ran:
        """All output of a command, to its end."""
        path, headers = f"/hutch/processes/{process}/output?from=0&follow=1", {"X-Access-Token": sandbox["guest_token"]}
        streams: dict[int, bytes] = {1: b"", 2: b""}
        limits, state = [], {}
        with closing(self.guest(sandbox, timeout)) as connection:
            connection.request("GET", path, headers=headers)
            with connection.getresponse() as response:  # else a stream that is cut leaves its socket open
                assert response.status == 200, response.read()
                for kind, payload in _frames(response):
                    if kind in streams:
                        streams[kind] += payload
                    elif kind == 5:
                        limits.append(json.loads(payload))
                    elif kind == 6:
                        state = json.loads(payload)
        return Ran(streams[1].decode(errors="replace"), streams[2].decode(errors="replace"), state, limits)

    def exec(self, sandbox: dict[str, Any], shell: str, timeout: float = 60, **options: Any) -> Ran:
        """Run a command inside."""
        return self.follow(sandbox, self.start_process(sandbox, shell, **options), timeout)

    def at_once(self, *calls: Any) -> list[Any]:
        """The results of these, run at the same time."""
        with ThreadPoolExecutor(len(calls)) as pool:
            return [future.result() for future in [pool.submit(call) for call in calls]]


def boot_request(**changes: Any) -> dict[str, Any]:
    """The body of `PUT /sandboxes/{id}`."""
    resources = {**RESOURCES, **changes.pop("resources", {})}
    request = {
        "template": "standard",
        "resources": resources,
        "network": {"mode": "deny_all"},
        "deadline": time.time() + 86400,  # also for requests that are made when tests are collected
    }
    return request | changes


def _frames(response: http.client.HTTPResponse) -> Iterator[tuple[int, bytes]]:
    while header := response.read(13):
        kind, _, length = struct.unpack(">BQI", header)
        yield kind, response.read(length)
