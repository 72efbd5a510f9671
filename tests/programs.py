"""Hutch's daemons and commands as real processes, forked by a zygote: to start one costs milliseconds, and not the
seconds of CPU that Python takes to import them. That `python -m` starts them too is shown where the command and its
daemons are tested as a user runs them."""

from __future__ import annotations

import atexit
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[1]


class Program:
    """One process; what `subprocess.Popen` has of the same name does the same."""

    def __init__(
        self,
        module: str,
        *arguments: str,
        env: Mapping[str, str],
        stdout: IO[Any],
        stderr: IO[Any],
        stdin: IO[Any] | None = None,
    ) -> None:
        self.args = [module, *arguments]
        self.returncode: int | None = None
        self._report, theirs = socket.socketpair()
        wanted = {"module": module, "arguments": arguments, "environment": dict(env), "directory": os.getcwd()}
        with theirs, open(os.devnull, "rb") as nothing:
            descriptors = [each.fileno() for each in (theirs, stdin or nothing, stdout, stderr)]
            socket.send_fds(_zygote(), [json.dumps(wanted).encode()], descriptors)
        self._words = self._report.makefile("rb")
        self.pid = int(self._words.readline())

    def poll(self) -> int | None:
        """The exit status, once it has ended."""
        return self.returncode if self.returncode is not None else self._look(0)

    def wait(self, timeout: float | None = None) -> int:
        """The exit status, when it has ended; negative, the signal. May raise `subprocess.TimeoutExpired`."""
        status = self.returncode if self.returncode is not None else self._look(timeout)
        if status is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return status

    def send_signal(self, number: signal.Signals) -> None:
        """If it has not ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """`kill -9`."""
        self.send_signal(signal.SIGKILL)

    def _look(self, seconds: float | None) -> int | None:
        if select.select([self._report], [], [], seconds)[0]:
            self.returncode = int(self._words.readline())
            self._words.close()
            self._report.close()
        return self.returncode


def run(module: str, *arguments: str, env: Mapping[str, str], timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """As `subprocess.run`, with its output."""
    done = capture(module, *arguments, env=env, timeout=timeout)
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def capture(
    module: str, *arguments: str, env: Mapping[str, str], input: bytes = b"", timeout: float = 60
) -> subprocess.CompletedProcess[bytes]:
    """The same with what goes in, and with its output as it is."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        given.write(input)
        given.seek(0)
        program = Program(module, *arguments, env=env, stdin=given, stdout=out, stderr=err)
        try:
            program.wait(timeout)
        except subprocess.TimeoutExpired:
            program.kill()
            raise
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(program.args, program.wait(), out.read(), err.read())


@functools.cache
def _zygote() -> socket.socket:
    """This process's own."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        argv = [sys.executable, "-m", "tests.zygote", str(theirs.fileno())]
        # In a session of its own: Ctrl-C is for the tests, whose fixtures still need what runs.
        process = subprocess.Popen(argv, cwd=ROOT, pass_fds=[theirs.fileno()], start_new_session=True)
    atexit.register(_end, ours, process)
    return ours


def _end(ours: socket.socket, process: subprocess.Popen[bytes]) -> None:
    ours.close()
    process.wait(30)
