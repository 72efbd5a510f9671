"""The guest as PID 1, in namespaces of its own: what it does to the machine, and that it cannot be told to end."""

from __future__ import annotations

import ctypes
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.unit.guest.client import alive, eventually

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="needs root for namespaces")
_CLONE_NEWNET = 0x40000000
_START = """
    ip link set lo up && mount --bind "$1" /etc && shift && exec "$@"
"""


class Machine:
    """A guest that has the machine for itself, as far as it can see."""

    def __init__(self, directory: Path) -> None:
        self.etc = directory / "etc"
        self.etc.mkdir()
        for name in ("passwd", "group", "nsswitch.conf", "ld.so.cache"):
            shutil.copy(f"/etc/{name}", self.etc / name)
        guest = [sys.executable, "-m", "hutch_guest", "--spool-dir", str(directory / "spool")]
        unshare = ["unshare", "--fork", "--pid", "--mount-proc", "--net", "--uts", "--ipc", "--kill-child"]
        self.process = subprocess.Popen([*unshare, "sh", "-c", _START, "sh", str(self.etc), *guest])
        eventually(self._children)
        self.pid = self._children()[0]
        self._inside = ThreadPoolExecutor(1, initializer=self._enter_network)
        eventually(self._answers)

    def _children(self) -> list[int]:
        found = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in found.split()]

    def _enter_network(self) -> None:
        """In the thread that makes all connections: sockets belong to the network of their maker."""
        fd = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY)
        assert ctypes.CDLL(None).setns(fd, _CLONE_NEWNET) == 0
        os.close(fd)

    def _answers(self) -> bool:
        try:
            return self.call("GET", "/hutch/ready")[0] == 204
        except OSError:
            return False

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        """One request."""

        def request() -> tuple[int, bytes]:
            connection = http.client.HTTPConnection("127.0.0.1", 49983, timeout=30)
            try:
                connection.request(method, path, json.dumps(body) if body else None, {"X-Access-Token": "t"})
                response = connection.getresponse()
                return response.status, response.read()
            finally:
                connection.close()

        return self._inside.submit(request).result()

    def start(self, id: str, *argv: str, **options: Any) -> None:
        """Start a process."""
        status, body = self.call("POST", "/hutch/processes", {"id": id, "argv": argv, **options})
        assert status == 201, body

    def close(self) -> None:
        self._inside.shutdown()
        os.kill(self.pid, signal.SIGKILL)
        self.process.wait(10)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    try:
        yield machine
    finally:
        machine.close()


@pytest.fixture
def prepared(machine: Machine) -> Machine:
    body = {"sandbox_id": "sbx_1", "hostname": "den", "access_token": "t", "hosts": {"llm.hutch": "169.254.169.253"}}
    assert machine.call("POST", "/hutch/prepare", body)[0] == 204
    return machine


def output(machine: Machine, id: str) -> bytes:
    return machine.call("GET", f"/hutch/processes/{id}/output?follow=1")[1]


def test_prepare_names_the_machine(prepared: Machine) -> None:
    host = os.uname().nodename
    assert "169.254.169.253 llm.hutch\n" in (prepared.etc / "hosts").read_text()
    assert (prepared.etc / "hostname").read_text() == "den\n"
    prepared.start("name", "sh", "-c", "uname -n; echo $HUTCH_SANDBOX_ID")
    said = output(prepared, "name")
    assert b"den\n" in said
    assert b"sbx_1\n" in said
    assert os.uname().nodename == host != "den"


def test_signals_do_not_end_it(prepared: Machine) -> None:
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGTSTP):
        os.kill(prepared.pid, number)
    prepared.start(
        "inner", "sh", "-c", "for n in $(seq 1 64); do kill -$n 1; done 2>/dev/null; grep SigIgn /proc/1/status"
    )
    ignored = int(output(prepared, "inner").partition(b"SigIgn:\t")[2][:16], 16)
    assert ignored & 0x7FFFFFFF == 0x7FFFFFFF & ~(1 << 8 | 1 << 18 | 1 << 16)  # KILL, STOP, CHLD
    prepared.start("terminal", "grep", "SigIgn", "/proc/self/status", pty={"cols": 80, "rows": 20})
    inherited = int(output(prepared, "terminal").partition(b"SigIgn:\t")[2][:16], 16)
    own = 1 << 31 | 1 << 32  # 32 and 33 belong to the C library: whoever starts the tests may have them ignored
    assert inherited & ~own == 0
    assert prepared.call("GET", "/hutch/ready")[0] == 204


def test_orphans_are_reaped(prepared: Machine) -> None:
    prepared.start("orphans", "sh", "-c", "for i in 1 2 3; do (setsid sh -c 'sleep 0.1' &); done")
    output(prepared, "orphans")
    time.sleep(0.3)
    prepared.start("list", "ps", "-e", "-o", "pid=,stat=")
    listed = output(prepared, "list")
    assert b" Z" not in listed
    assert listed.count(b"\n") == 2


def test_a_large_brood_is_killed_and_the_others_go_on(prepared: Machine) -> None:
    prepared.start("other", "sh", "-c", "while :; do echo tick; sleep 0.05; done")
    bomb = "import os, time\nwhile True:\n try:\n  os.fork(); os.setsid()\n except OSError: time.sleep(0.01)"
    limited = ["setpriv", "--reuid", "59998", "--clear-groups", "prlimit", "--nproc=200"]
    prepared.start("bomb", *limited, sys.executable, "-S", "-c", bomb)

    def pids() -> int:
        found: int = json.loads(prepared.call("GET", "/hutch/stats")[1])["pids"]
        return found

    eventually(lambda: pids() > 100)
    assert prepared.call("DELETE", "/hutch/processes/bomb")[0] == 204
    assert pids() < 6
    before = json.loads(prepared.call("GET", "/hutch/processes/other")[1])
    assert before["running"]

    def ticking() -> bool:
        now = json.loads(prepared.call("GET", "/hutch/processes/other")[1])
        return bool(now["output_end"] > before["output_end"])

    eventually(ticking)


def test_everything_ends_with_it(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.call("POST", "/hutch/prepare", {"access_token": "t"})
    machine.start("sleep", "sleep", "300")
    pid = machine.pid
    machine.close()
    assert not alive(pid)
