"""A process that has imported what Hutch's daemons and commands import, and forks whenever one is asked for.

`python -m tests.zygote <fd>`, where fd is one end of a SOCK_SEQPACKET pair. An order is one JSON object and four
descriptors: for the report, and the program's standard three. The report is the pid, and when the program has ended,
its exit status; a line each. It ends when the other end of the pair is closed; what it has forked goes on.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import os
import runpy
import selectors
import socket
import sys
import threading
import traceback
from typing import Any, NoReturn

PROGRAMS = (
    *("hutch.api.server", "hutch.node.daemon", "hutch.node.logs", "hutch.sdk._sync.client", "typer.main"),
    *("sqlalchemy.dialects.sqlite.pysqlite", "uvloop", "uvicorn.protocols.http.httptools_impl"),
)
"""What programs spend their first seconds on. Not their `__main__`: that is run. Nor what looks at its own standard
output and environment when it is imported, as the command's consoles do."""
MAX_ORDER = 1 << 17
_PR_SET_DUMPABLE = 4


def order(control: socket.socket) -> dict[str, Any] | None:
    """Fork and report until the end. Returns in each child, as what it was asked for; in the zygote itself None."""
    watched = selectors.DefaultSelector()
    watched.register(control, selectors.EVENT_READ)
    while True:
        for key, _ in watched.select():
            if key.data is not None:
                watched.unregister(key.fd)
                _report_end(key.fd, *key.data)
                continue
            message, descriptors, _, _ = socket.recv_fds(control, MAX_ORDER, 4)
            if not message:
                return None
            pid = os.fork()
            if pid == 0:
                watched.close()  # now: whatever is collected later closes a number that is another's by then
                control.close()
                _take(descriptors[1:])
                return json.loads(message)  # type: ignore[no-any-return]
            for each in descriptors[1:]:
                os.close(each)
            _say(descriptors[0], pid)
            watched.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, descriptors[0]))


def run(ordered: dict[str, Any]) -> NoReturn:
    """Be the program, and end as Python does; but to take all modules apart would be to copy them."""
    status: object = 1
    try:
        os.chdir(ordered["directory"])
        sys.argv[1:] = ordered["arguments"]
        os.execve = _execve  # type: ignore[assignment]
        _be(ordered["module"], ordered["environment"])
        status = 0
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
    threading._shutdown()  # type: ignore[attr-defined]  # waits for all threads that are no daemons
    atexit._run_exitfuncs()
    if status is not None and not isinstance(status, int):
        print(status, file=sys.stderr)
        status = 1
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    os._exit(status or 0)


class _Become(BaseException):
    """The program has done what needs root, and goes on with another's rights (`hutch.api.launch`)."""


def _execve(path: str, argv: list[str], environment: dict[str, str]) -> NoReturn:
    """`os.execve` of Python, without a new Python: rights and inherited descriptors are as they would be."""
    interpreter, *_, flag, module = argv
    assert (path, interpreter, flag) == (sys.executable, sys.executable, "-m"), argv
    raise _Become(module, environment)


def _be(module: str, environment: dict[str, str]) -> None:
    earlier = []  # with their frames, which hold the sockets that a later one has by number
    while True:
        os.environ.clear()
        os.environ.update(environment)
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
            return
        except _Become as next:
            earlier.append(next)
            module, environment = next.args
            ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1)  # as after any exec: its own /proc is its own


def _take(standard: list[int]) -> None:
    """Of all that is open, only these go on."""
    os.setsid()
    for number, each in enumerate(standard):
        os.dup2(each, number)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))


def _report_end(watch: int, pid: int, report: int) -> None:
    os.close(watch)
    _say(report, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    os.close(report)


def _say(report: int, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # nobody asks any more
        os.write(report, b"%d\n" % number)


if __name__ == "__main__":
    for name in PROGRAMS:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # or each child's first collection copies all this
    if wanted := order(socket.socket(fileno=int(sys.argv[1]))):
        run(wanted)
