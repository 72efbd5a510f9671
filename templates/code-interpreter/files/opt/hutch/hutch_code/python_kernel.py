"""IPython's kernel, with what E2B's programs expect of it. It hears of code by a socket of the server's, and not by
ZeroMQ: that would be four threads, and a dozen switches between them, for each execution."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import random
import signal
import socket
import sys
import threading
from types import SimpleNamespace
from typing import Any

from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelapp import IPKernelApp
from tornado.ioloop import IOLoop
from traitlets.config import Config

from hutch_code import formats, results
from hutch_code.python_output import Flusher, Output, Wire

_CONFIG = Config(
    {
        "HistoryManager": {"enabled": False},
        "InteractiveShell": {"colors": "nocolor", "autocall": 0, "automagic": True},
        "IPKernelApp": {"log_level": 40},  # by which programs know a notebook
        "IPythonKernel": {"_execute_sleep": 0.0},
    }
)
_OFTEN = 100
_MESSAGE = {"msg_id": "", "msg_type": "execute_request", "session": "", "username": "", "version": "5.3"}


class Kernel(IPythonKernel):
    """Runs code, each execution in its surroundings."""

    _supports_kernel_subshells = False

    def __init__(self, **options: Any) -> None:
        main = SimpleNamespace(parent_thread=threading.main_thread())  # which may be interrupted
        super().__init__(iopub_socket=self, shell_channel_thread=main, log=_silent(), **options)
        self.io_loop = IOLoop.current()
        self._generation: str | None = None
        self._sandbox: dict[str, str] = {}

    async def run(self, wanted: dict[str, Any]) -> None:
        """One request of the server's, to its end."""
        if wanted["generation"] != self._generation:
            self._arrive(wanted["generation"], wanted["sandbox"])
        env = wanted["env"]
        before = {name: os.environ.get(name) for name in env}
        os.environ.update(env)
        content = {"code": wanted["code"], "store_history": True, "allow_stdin": False, "stop_on_error": False}
        message = {"header": _MESSAGE, "parent_header": {}, "metadata": {}, "content": content}
        try:
            self.set_parent([], message)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            await self.execute_request(None, [], message)
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
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


class Service:
    """The server's end of the kernel: takes its requests, and tells when each is done."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._wire = Wire().connect(control)
        self._streams = _streams()
        self._lines: asyncio.Queue[bytes] = asyncio.Queue()
        self._rest = b""

    @property
    def left(self) -> bool:
        """Whether the code wants no more of it (`exit`, which stops the loop)."""
        return bool(Kernel.initialized() and Kernel.instance().shell.exit_now)

    async def serve(self) -> None:
        """Until the server is gone."""
        app = IPKernelApp.instance(config=_CONFIG)  # never run, but there, with a kernel, for programs that look for it
        kernel = app.kernel = Kernel.instance(parent=app, session=self._wire)
        formats.install(kernel.shell)
        if "matplotlib" in sys.modules:
            kernel.shell.enable_matplotlib("inline")
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # while no code runs
        asyncio.get_running_loop().add_reader(self._control, self._hear)
        self._end(0)
        while line := await self._lines.get():
            number = int(line.partition(b" ")[0])
            try:
                await kernel.run(json.loads(line.partition(b" ")[2]))
            except BaseException as error:  # of a signal, between the code and here
                with contextlib.suppress(BaseException):
                    self._wire.tell(results.error(type(error).__name__, str(error)))
            if os.getpid() != self._wire.pid:
                os._exit(0)  # the code has forked a process that came to the end of it, too
            self._end(number)

    def _end(self, number: int) -> None:
        for stream in self._streams:
            with contextlib.suppress(BaseException):
                stream.flush()
        for _ in range(_OFTEN):
            with contextlib.suppress(BaseException):  # of the code's signals: the server waits for the end
                return self._wire.tell({"type": "end", "number": number})

    def _hear(self) -> None:
        data = self._control.recv(65536, socket.MSG_DONTWAIT)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._lines.put_nowait(line)
        if not data:
            asyncio.get_running_loop().remove_reader(self._control)
            self._lines.put_nowait(b"")


def run(control: int, out: int, err: int) -> None:
    """Be a kernel until the server is gone."""
    null = os.open(os.devnull, os.O_RDONLY)
    for ours, descriptor in ((null, 0), (out, 1), (err, 2)):
        os.dup2(ours, descriptor)
        os.close(ours)
    os.set_inheritable(control, False)
    sys.argv = ["python3"]
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    woken, wake = socket.socketpair()  # by signals: what their handlers have the loop do is done at once
    for end in (woken, wake):
        end.setblocking(False)
    loop.add_reader(woken, woken.recv, 4096)
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    service = Service(socket.socket(fileno=control))
    serving = loop.create_task(service.serve())
    while not serving.done() and not service.left:
        with contextlib.suppress(BaseException):  # what handlers of signals raise between executions
            loop.run_until_complete(serving)
    if serving.done():
        serving.result()


def _silent() -> logging.Logger:
    """What the kernel has to say of itself is not the code's, however that has set up logging."""
    log = logging.getLogger("hutch_code.python_kernel")
    log.addHandler(logging.NullHandler())
    log.propagate = False
    return log


def _streams() -> tuple[Output, Output]:
    flusher = Flusher()
    out, err = Output(1, flusher), Output(2, flusher)
    flusher.watch(out, err)
    sys.stdout, sys.stderr = out, err
    return out, err


def _set(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value
