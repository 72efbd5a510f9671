"""One process: its life, its output, its input."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable

from hutch_guest.errors import Conflict
from hutch_guest.http.messages import dump_json
from hutch_guest.processes import frames, terminal, tree
from hutch_guest.processes.pipes import InputPipe, OutputPipe, settle
from hutch_guest.processes.spool import Spool

_RETRY_SPACE = 0.5
_SHORT_LINGER = 0.1


class Process:
    """A process that the guest started, alive or ended.

    `linger`: how long after its end a child that holds its output open may still add to it (None: until it closes).
    """

    def __init__(self, id: str, command: str, spool: Spool, linger: float | None) -> None:
        self.id = id
        self.command = command
        self.spool = spool
        self.pid = 0
        self.exit_code: int | None = None
        self.signal: str | None = None
        self.timed_out = False
        self.breach: dict[str, object] | None = None
        self.started_at = time.time()
        self.ended_at: float | None = None
        self.finished = False
        """The exit frame is in the spool: nothing comes after it."""
        self.config: dict[str, object] = {}
        """How it was started, as E2B's clients are told."""
        self.tag: str | None = None
        self.last_frame = 0
        """Where somebody begins who wants only what comes from now on: the end, or the exit frame."""
        self.stdin: InputPipe | None = None
        self.terminal: int | None = None
        self.on_disk_full: Callable[[Process], None] | None = None
        self._linger = linger
        self._loop = asyncio.get_running_loop()
        self._outputs: list[OutputPipe] = []
        self._waiters: list[asyncio.Future[None]] = []
        self._unstored: list[tuple[int, bytes]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._discard = False
        self._killing: asyncio.Task[None] | None = None
        spool.on_room = self._resume

    # its start and end

    def began(self, pid: int, outputs: dict[int, int]) -> None:
        """It runs; `outputs` are our read ends: kind of frame -> descriptor."""
        self.pid = pid
        self._outputs = [OutputPipe(fd, kind, self._take, self._output_closed) for kind, fd in outputs.items()]

    def set_timeout(self, seconds: float, whole_tree: bool = True) -> None:
        """Kill it when it still runs then, with everything it has started or alone."""
        self._timer = self._loop.call_later(seconds, self._time_out, whole_tree)

    def _time_out(self, whole_tree: bool) -> None:
        if not self.running:
            return
        self.timed_out = True
        if whole_tree:
            self._killing = self._loop.create_task(self.kill())
        else:
            self.end_with_process()
            self.send_signal(signal.SIGKILL, whole_tree=False)

    @property
    def retain_all(self) -> bool:
        """Whether its output is kept until it is acknowledged."""
        return self.spool.retain_all

    @property
    def running(self) -> bool:
        return self.ended_at is None

    def ended(self, status: int) -> None:
        """The reaper has its wait status."""
        self.ended_at = time.time()
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            self.exit_code = 128 + number
            self.signal = signal.Signals(number).name if number in signal.valid_signals() else f"SIG{number}"
        else:
            self.exit_code = os.waitstatus_to_exitcode(status)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.stdin is not None and self.terminal is None:
            self.stdin.close()
        self._output_closed()
        if not self.finished and self._linger is not None:
            self._loop.call_later(self._linger, self._stop_lingering)

    async def kill(self) -> None:
        """Kill it and everything it has started."""
        await tree.kill_tree(self.id, self.pid)

    # output

    def _take(self, kind: int, data: bytes) -> None:
        """Store output, and read no more for now when there is no room."""
        if self._discard:
            return
        if not self._store(kind, data):
            self._unstored.append((kind, data))
            self._pause()
            self._loop.call_later(_RETRY_SPACE, self._retry)
            if self.on_disk_full is not None:
                self.on_disk_full(self)
            return
        self._wake()
        if self.spool.full():
            self._pause()

    def _store(self, kind: int, data: bytes) -> bool:
        before = self.spool.end
        while True:
            try:
                self.spool.append(kind, data)
                self.last_frame = before if kind == frames.EXIT else self.spool.end
                return True
            except OSError:
                if not self.spool.make_space():
                    return False

    def _retry(self) -> None:
        """The disk was full: try what is left over again."""
        while self._unstored:
            if not self._store(*self._unstored[0]):
                self._loop.call_later(_RETRY_SPACE, self._retry)
                return
            self._unstored.pop(0)
        self._wake()
        self._resume()
        self._output_closed()

    def _pause(self) -> None:
        for output in self._outputs:
            output.pause()

    def _resume(self) -> None:
        if not self._unstored and not self.spool.full():
            for output in self._outputs:
                output.resume()

    def _output_closed(self) -> None:
        if not self.running and not self._unstored and not any(output.open for output in self._outputs):
            self._finish()

    def _stop_lingering(self) -> None:
        """Something else holds the output open. End the stream, and read on to nowhere: it must not die of EPIPE."""
        if self.finished:
            return
        if self._unstored or self.spool.full():  # what the process itself wrote may still be in the pipe
            self._loop.call_later(0.1, self._stop_lingering)
            return
        self._finish()
        self._discard = True
        self._resume()

    def _finish(self) -> None:
        if self.finished:
            return
        if not self._store(frames.EXIT, dump_json(self.state())):
            self._loop.call_later(_RETRY_SPACE, self._finish)
            return
        self.finished = True
        self.spool.seal()
        if not any(output.open for output in self._outputs):
            self._close_terminal()
        self._wake()

    def _close_terminal(self) -> None:
        if self.terminal is not None:
            self.terminal = None
            if self.stdin is not None:
                self.stdin.close()

    def note(self, breach: dict[str, object]) -> None:
        """Tell the followers of a limit that was hit."""
        if not self.finished and self._store(frames.LIMIT, dump_json(breach)):
            self._wake()

    # followers

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            settle(waiter)

    async def changed(self, timeout: float) -> bool:
        """Wait until there is more to read; False when nothing came for `timeout` seconds."""
        waiter = self._loop.create_future()
        self._waiters.append(waiter)
        timer = self._loop.call_later(timeout, settle, waiter)
        try:
            await waiter
        finally:
            timer.cancel()
        if waiter in self._waiters:
            self._waiters.remove(waiter)
            return False
        return True

    # control

    def resize(self, cols: int, rows: int) -> None:
        """Change the size of its terminal."""
        if self.terminal is None:
            raise Conflict("the process has no terminal" if self.running else "the process has ended")
        terminal.set_size(self.terminal, cols, rows)

    def end_with_process(self) -> None:
        """From now on the stream ends soon after the process, whoever else holds its output open."""
        self._linger = _SHORT_LINGER

    def send_signal(self, number: signal.Signals, whole_tree: bool) -> None:
        """Send a signal to it, or to everything it has started as well."""
        if whole_tree:
            tree.signal_tree(self.id, self.pid, number)
        elif self.running:
            os.kill(self.pid, number)

    def forget(self) -> None:
        """Let go of everything that is still open."""
        for output in self._outputs:
            output.close()
        if self.stdin is not None:
            self.stdin.close()
        self.terminal = None
        self.finished = True
        self.spool.drop()
        self._wake()

    def state(self) -> dict[str, object]:
        """What is told of it."""
        return {
            "id": self.id,
            "pid": self.pid,
            "command": self.command,
            "running": self.running,
            "exit_code": self.exit_code,
            "signal": self.signal,
            "timed_out": self.timed_out,
            "breach": self.breach,
            "started_at": self.started_at,
            "ended_at": self.ended_at,
            "output_end": self.spool.end,
        }
