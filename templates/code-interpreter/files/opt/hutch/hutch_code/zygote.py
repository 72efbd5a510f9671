"""The process that Python kernels are forked from. It has imported what people use, so that a kernel is there at once
and shares the memory of it all with the others.

It is told over a socket on the descriptor in its argument, a JSON object a line: `{"id", "cwd"}` to fork, with four
descriptors: of its control, its output, its errors and its mailbox. Answered by `{"id", "pid"}`, and by `{"id",
"ended"}` when that one has ended. It ends with the socket, and all of its kernels with it. It never starts a thread:
none would be in the children.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import selectors
import signal
import socket
import sys
from typing import Any

from hutch_code import warm
from hutch_code.processes import ending

_MAX_LINE = 1 << 20
_MOST_DESCRIPTORS = 192
_PR_SET_PDEATHSIG = 1


class Zygote:
    """Forks, and tells of ends."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._given: list[int] = []
        self._children: dict[int, int] = {}
        """The number under which each was asked for."""
        self._woken, wake = socket.socketpair()
        self._wake = wake
        for end in (self._woken, wake):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)

    def serve(self) -> None:
        """Until the server is gone. In a child it never returns."""
        selector = selectors.DefaultSelector()
        selector.register(self._control, selectors.EVENT_READ)
        selector.register(self._woken, selectors.EVENT_READ)
        rest = b""
        while True:
            ready = {key.fileobj for key, _ in selector.select()}
            if self._woken in ready:
                with contextlib.suppress(BlockingIOError):
                    self._woken.recv(4096)
                self._reap()
            if self._control in ready:
                data, descriptors, _, _ = socket.recv_fds(self._control, 65536, _MOST_DESCRIPTORS)
                if not data or len(rest) > _MAX_LINE:
                    return self._end()
                self._given += descriptors
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._fork(json.loads(line), selector)

    def _fork(self, wanted: dict[str, Any], selector: selectors.BaseSelector) -> None:
        given, self._given = self._given[:4], self._given[4:]
        pid = os.fork()
        if pid == 0:
            selector.close()
            self._become(wanted["cwd"], *given)
        for descriptor in given:
            os.close(descriptor)
        self._children[pid] = wanted["id"]
        self._tell({"id": wanted["id"], "pid": pid})

    def _become(self, cwd: str, control: int, out: int, err: int, requests: int) -> None:
        """Be the kernel."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()
            _die_with_parent()
            for end in (self._control, self._woken, self._wake):
                end.close()
            for descriptor in self._given:  # of the next ones
                os.close(descriptor)
            os.chdir(cwd)
            from hutch_code.python_service import run

            run(control, out, err, requests)
            code = 0
        except BaseException as error:
            sys.stderr.write(f"a kernel could not start: {error!r}\n")
        finally:
            os._exit(code)

    def _reap(self) -> None:
        while self._children:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if (id := self._children.pop(pid, None)) is not None:
                self._tell({"id": id, "ended": ending(os.waitstatus_to_exitcode(status))})

    def _tell(self, said: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # the server is gone: the next read says so
            self._control.sendall(json.dumps(said).encode() + b"\n")

    def _end(self) -> None:
        for pid in self._children:
            with contextlib.suppress(OSError):
                os.killpg(pid, signal.SIGKILL)


def _die_with_parent() -> None:
    """Also when it is killed itself, and can end nobody."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def main() -> None:
    """Import everything, and serve."""
    control = socket.socket(fileno=int(sys.argv[1]))
    warm.up()
    gc.collect()
    gc.freeze()  # what is there stays shared: collections do not look at it
    control.sendall(b'{"ready": true}\n')
    Zygote(control).serve()


if __name__ == "__main__":
    main()
