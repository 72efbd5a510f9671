"""A guest as an ordinary process, and a plain client for it."""

from __future__ import annotations

import http.client
import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

TOKEN = "token-of-the-test"
KEEPALIVE, STDOUT, STDERR, PTY, GAP, LIMIT, EXIT, STARTED = range(8)
Frame = tuple[int, int, bytes]


class Reply:
    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Guest:
    """The process, and calls to it."""

    def __init__(self, directory: Path, *options: str, token: str | None = TOKEN) -> None:
        self.directory = directory
        self.spool = directory / "spool"
        template = directory / "template.json"
        template.write_text(json.dumps({"name": "t", "env": {"HOME": str(directory), "TEMPLATE": "yes"}}))
        command = [sys.executable, "-m", "hutch_guest", "--port", "0", "--host", "127.0.0.1", "--no-system"]
        command += ["--spool-dir", str(self.spool), "--template", str(template), *options]
        command += ["--token", token] if token else []
        self.errors = (directory / "stderr").open("w+")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.errors, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def close(self) -> str:
        """End it; answers what it logged."""
        self.process.terminate()
        self.process.wait(10)
        assert self.process.stdout is not None
        self.process.stdout.close()
        with self.errors as errors:
            errors.seek(0)
            return errors.read()

    # calls

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)

    def socket(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def call(
        self, method: str, target: str, body: Any = None, headers: dict[str, str] | None = None, /, **query: Any
    ) -> Reply:
        connection = self.connect()
        try:
            data = json.dumps(body) if isinstance(body, dict) else body
            target = f"{target}?{urlencode(query)}" if query else target
            connection.request(method, target, data, {"X-Access-Token": TOKEN} | (headers or {}))
            return Reply(connection.getresponse())
        finally:
            connection.close()

    def start(self, *argv: str, **options: Any) -> dict[str, Any]:
        """Start a process; answers its state."""
        body = ({"argv": list(argv)} if argv else {}) | options
        reply = self.call("POST", "/hutch/processes", body)
        assert reply.status == 201, reply.body
        state: dict[str, Any] = reply.json
        return state

    def state(self, id: str) -> dict[str, Any]:
        state: dict[str, Any] = self.call("GET", f"/hutch/processes/{id}").json
        return state

    def frames(self, id: str, start: int = 0, follow: int = 1) -> Iterator[Frame]:
        """The frames of its output as they come. Closing the iterator closes the connection."""
        connection = self.connect()
        try:
            path = f"/hutch/processes/{id}/output?from={start}&follow={follow}"
            connection.request("GET", path, headers={"X-Access-Token": TOKEN})
            yield from self._frames(connection.getresponse(), 200)
        finally:
            connection.close()

    def start_and_follow(self, body: dict[str, Any], status: int = 201) -> Iterator[Frame]:
        """The frames of a process that the same call starts."""
        connection = self.connect()
        try:
            connection.request("POST", "/hutch/processes?follow=1", json.dumps(body), {"X-Access-Token": TOKEN})
            yield from self._frames(connection.getresponse(), status)
        finally:
            connection.close()

    @staticmethod
    def _frames(response: http.client.HTTPResponse, status: int) -> Iterator[Frame]:
        assert response.status == status, response.read()
        while head := response.read(13):
            kind, offset, length = struct.unpack(">BQI", head)
            yield kind, offset, response.read(length)

    def run(self, *argv: str, **options: Any) -> tuple[bytes, bytes, dict[str, Any]]:
        """Run to the end: standard output, standard error, final state."""
        frames = list(self.frames(self.start(*argv, **options)["id"]))
        output = [b"".join(data for kind, _, data in frames if kind == stream) for stream in (STDOUT, STDERR)]
        assert frames[-1][0] == EXIT
        return output[0], output[1], json.loads(frames[-1][2])

    # what the guest holds

    def open_files(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def memory(self) -> int:
        """Resident bytes."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * 4096


def eventually(check: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
