"""The server's end of a Python kernel: takes its requests, and tells when each is done.

The code's signal handlers, and exceptions that its threads send here, come up between any two instructions of what
stands here, of asyncio and of IPython. So each step can be cut anywhere, and done again: what is asked stays in the
mailbox, how far the execution has come in its `Turn`, and what was told has a number. An execution is told to have
ended when IPython has answered for it, or else with an error."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import json
import os
import signal
import socket
import sys
import time
from typing import Any

from hutch_code import results
from hutch_code.kernels import Event
from hutch_code.mailbox import Mailbox
from hutch_code.python_kernel import Turn, make
from hutch_code.python_output import Flusher, Output, Wire

_OFTEN = 100
"""Attempts at telling an end, after which what waits to be told with it is given up."""
_MOST = 2000
"""Exceptions in a second between executions, after which the kernel gives up: no handler, but what is broken here."""


class Loop(asyncio.SelectorEventLoop):
    """Stops where a callback has failed, which may have been one that somebody waits for; and runs again when it was
    cut in the middle of its own end."""

    def run_forever(self) -> None:
        """As ever, whatever the last time has left."""
        self._thread_id = None
        asyncio._set_running_loop(None)
        super().run_forever()

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """As ever, and stop."""
        try:
            super().call_exception_handler(context)
        finally:
            self.stop()


class Service:
    """Runs one request after the other."""

    def __init__(self, loop: Loop, control: socket.socket, requests: Mailbox) -> None:
        self._loop = loop
        self._control = control
        self._requests = requests
        self._wire = Wire().connect(control)
        self._streams = _streams()
        self._context = contextvars.copy_context()
        """Of all executions: what one sets there, the next one finds."""
        self._turn = Turn(0, {}, over=True)
        self._failures = 0
        self._since = 0.0
        self._kernel = make(self._wire)
        self.over = False
        """Whether the server is gone, the code wants no more (`exit`), or nothing works here any more."""

    def begin(self) -> None:
        """Before any code has run."""
        self._kernel.leave()
        self._loop.add_reader(self._control, self._hear)
        self._wire.tell(_end(0))

    def serve(self) -> None:
        """Until it is over. An exception that comes up out of it ends nothing: it is called again."""
        while not self.over:
            try:
                self._step()
            except BaseException:
                self._fail()

    def _step(self) -> None:
        """Some of what there is to do: it can be cut anywhere."""
        if os.getpid() != self._wire.pid:
            os._exit(0)  # the code has forked a process that came to the end of it, too
        turn = self._turn
        if turn.over:
            return self._next()
        if not turn.begun:
            self._start(turn)
        if turn.task is not None and not turn.task.done():
            self._loop.run_until_complete(turn.task)
            if os.getpid() != self._wire.pid:
                os._exit(0)
        self._finish(turn)

    def _next(self) -> None:
        """Take a request, or wait for what changes."""
        number = self._requests.number()
        if number != self._turn.number:
            self._turn = Turn(number, json.loads(self._requests.request()))
        elif self._kernel.shell.exit_now:
            self.over = True
        else:
            self._loop.run_forever()

    def _start(self, turn: Turn) -> None:
        """Anew, where the last task was cut before it came to the code."""
        if turn.task is not None:
            turn.task._log_destroy_pending = False  # type: ignore[attr-defined]  # asyncio does so itself
            turn.task.cancel()
        turn.starts += 1
        turn.task = self._loop.create_task(self._kernel.run(turn, turn.starts), context=self._context)

    def _finish(self, turn: Turn) -> None:
        self._kernel.leave()
        turn.ends += 1
        if turn.ends > _OFTEN:
            self._wire.forget()
            self._wire.tell(results.error("KernelError", "the code's signals left no time to tell its result"))
        elif not self._wire.told_error and (error := _error(turn)):
            self._wire.tell(error)
        for stream in self._streams:
            with contextlib.suppress(Exception):  # it may be closed
                stream.flush()
        self._wire.tell(_end(turn.number))
        turn.over = True

    def _fail(self) -> None:
        """An exception came up. So many are not what handlers raise, but what is broken: an end is told at least."""
        now = time.monotonic()
        if now - self._since > 1:
            self._since, self._failures = now, 0
        self._failures += 1
        if self._failures > _MOST:
            self.over = True

    def _hear(self) -> None:
        """The server has rung, or is gone."""
        if not self._control.recv(4096, socket.MSG_DONTWAIT):
            self.over = True
        self._loop.stop()


def run(control: int, out: int, err: int, requests: int) -> None:
    """Be a kernel until the server is gone."""
    null = os.open(os.devnull, os.O_RDONLY)
    for ours, descriptor in ((null, 0), (out, 1), (err, 2)):
        os.dup2(ours, descriptor)
        os.close(ours)
    for descriptor in (control, requests):
        os.set_inheritable(descriptor, False)
    sys.argv = ["python3"]
    loop = Loop()
    asyncio.set_event_loop(loop)
    woken, wake = socket.socketpair()  # by signals: what their handlers have the loop do is done at once
    for end in (woken, wake):
        end.setblocking(False)
    loop.add_reader(woken, woken.recv, 4096)
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    service = Service(loop, socket.socket(fileno=control), Mailbox(requests))
    service.begin()
    while not service.over:
        with contextlib.suppress(BaseException):  # between two steps
            service.serve()


def _end(number: int) -> Event:
    return {"type": "end", "number": number}


def _error(turn: Turn) -> Event | None:
    """Why the execution is no success, for which IPython has told no reason."""
    if (reply := turn.reply) is not None:
        if reply["status"] == "ok":
            return None
        return results.error(reply["ename"], reply["evalue"], "\n".join(reply["traceback"]))
    assert turn.task is not None
    cut = None if turn.task.cancelled() else turn.task.exception()
    if cut is None:
        cut = asyncio.CancelledError("the execution was cancelled")
    return results.error(type(cut).__name__, str(cut))


def _streams() -> tuple[Output, Output]:
    flusher = Flusher()
    out, err = Output(1, flusher), Output(2, flusher)
    flusher.watch(out, err)
    sys.stdout, sys.stderr = out, err
    return out, err
