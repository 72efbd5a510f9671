"""IPython's kernel, with what E2B's programs expect of it. It hears of code by a socket of the server's, and not by
ZeroMQ: that would be four threads, and a dozen switches between them, for each execution."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import sys
import threading
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelapp import IPKernelApp
from tornado.ioloop import IOLoop
from traitlets.config import Config

from hutch_code import formats
from hutch_code.python_output import Wire

_CONFIG = Config(
    {
        "HistoryManager": {"enabled": False},
        "InteractiveShell": {"colors": "nocolor", "autocall": 0, "automagic": True},
        "IPKernelApp": {"log_level": 40},  # by which programs know a notebook
    }
)
_MESSAGE = {"msg_id": "", "msg_type": "execute_request", "session": "", "username": "", "version": "5.3"}
_PARENT = {"header": _MESSAGE, "parent_header": {}, "metadata": {}, "content": {}}


@dataclass(eq=False)
class Turn:
    """One execution, and how far it has come: whoever was cut goes on from there."""

    number: int
    wanted: dict[str, Any]
    task: asyncio.Task[None] | None = None
    starts: int = 0
    """How many tasks were made for it. The last one counts, whether or not `task` is what it was kept in."""
    begun: bool = False
    """Whether any of the code may have run: then it is not run again."""
    reply: dict[str, Any] | None = None
    """IPython's, once it was through with the code."""
    ends: int = 0
    """Attempts at telling its end."""
    over: bool = False


class Kernel(IPythonKernel):
    """Runs code, each execution in its surroundings."""

    _supports_kernel_subshells = False

    def __init__(self, **options: Any) -> None:
        main = SimpleNamespace(parent_thread=threading.main_thread())  # which may be interrupted
        super().__init__(iopub_socket=self, shell_channel_thread=main, log=_silent(), **options)
        self.io_loop = IOLoop.current()
        self._generation: str | None = None
        self._sandbox: dict[str, str] = {}
        self._before: dict[str, str | None] = {}

    async def run(self, turn: Turn, start: int) -> None:
        """One request of the server's. Can be started again until it has begun."""
        wanted = turn.wanted
        if wanted["generation"] != self._generation:
            self._arrive(wanted["generation"], wanted["sandbox"])
        for name, value in wanted["env"].items():
            self._before.setdefault(name, os.environ.get(name))
            os.environ[name] = value
        self.set_parent([], _PARENT)
        self.session.told_error = False
        if turn.starts != start:
            return
        turn.begun = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self.session.tell({"type": "number_of_executions", "execution_count": self.shell.execution_count}, late=True)
        turn.reply = await self.do_execute(wanted["code"], silent=False)

    def leave(self) -> None:
        """No code runs. Does no harm twice."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for name in list(self._before):
            _set(name, self._before[name])
            del self._before[name]

    def _arrive(self, generation: str, sandbox: dict[str, str]) -> None:
        """This memory has become another sandbox's, or the same one's at another time."""
        if self._generation is None:  # nobody has seeded them but the template, the same for all of its sandboxes
            random.seed()
            if "numpy" in sys.modules:
                sys.modules["numpy"].random.seed()
        if "ssl" in sys.modules:
            sys.modules["ssl"].RAND_add(os.urandom(64), 64.0)
        for name in self._sandbox.keys() - sandbox.keys():
            _set(name, None)
        os.environ.update(sandbox)
        self._generation, self._sandbox = generation, sandbox


def make(wire: Wire) -> Kernel:
    """The process's own."""
    app = IPKernelApp.instance(config=_CONFIG)  # never run, but there, with a kernel, for programs that look for it
    kernel: Kernel = Kernel.instance(parent=app, session=wire)
    app.kernel = kernel
    formats.install(kernel.shell)
    if "matplotlib" in sys.modules:
        kernel.shell.enable_matplotlib("inline")
    return kernel


def _silent() -> logging.Logger:
    """What the kernel has to say of itself is not the code's, however that has set up logging."""
    log = logging.getLogger("hutch_code.python_kernel")
    log.addHandler(logging.NullHandler())
    log.propagate = False
    return log


def _set(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value
