"""IPython's kernel, with what E2B's programs expect of it."""

from __future__ import annotations

import os
import random
import signal
import sys
from typing import Any

from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelapp import IPKernelApp
from traitlets.config import Config

from hutch_code import formats

_CONFIG = Config(
    {
        "HistoryManager": {"enabled": False},
        "InteractiveShell": {"colors": "nocolor", "autocall": 0, "automagic": True},
        "IPKernelApp": {"exec_PYTHONSTARTUP": False},
        "IPythonKernel": {"_execute_sleep": 0.0},
    }
)


class Kernel(IPythonKernel):
    """Puts each execution into its surroundings (`hutch` in the request's metadata)."""

    _supports_kernel_subshells = False  # a thread between the wire and the code, for what nobody here asks for

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._generation: str | None = None
        self._sandbox: dict[str, str] = {}

    async def execute_request(self, stream: Any, ident: Any, parent: dict[str, Any]) -> None:
        known = parent.get("metadata", {}).get("hutch", {})
        if known.get("generation", "") != self._generation:
            self._arrive(known.get("generation", ""), known.get("sandbox", {}))
        env = known.get("env") or {}
        before = {name: os.environ.get(name) for name in env}
        os.environ.update(env)
        try:
            await super().execute_request(stream, ident, parent)
        finally:
            for name, value in before.items():
                _set(name, value)

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


class App(IPKernelApp):
    """Without what only people at a terminal need."""

    kernel_class = Kernel

    def init_iopub(self, context: Any) -> None:
        context.sndhwm = 0  # of all its sockets from now on: nothing of the output may be lost
        super().init_iopub(context)

    def init_heartbeat(self) -> None:
        """Nobody listens: the kernel's end is seen by its parent."""

    def init_signal(self) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # while no code runs


def run(connection: str) -> None:
    """Be a kernel until it is killed."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    sys.argv = ["python3"]
    app = App.instance(config=_CONFIG)
    app.initialize(["-f", connection])
    formats.install(app.shell)
    if "matplotlib" in sys.modules:
        app.shell.enable_matplotlib("inline")
    app.start()


def _set(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value
