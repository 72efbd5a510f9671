"""All processes of the sandbox: starts them, reaps them, keeps the ended ones for a while."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping

from hutch_guest.accounts import Account
from hutch_guest.errors import ExecNotFound, GuestError, from_os_error
from hutch_guest.processes import environment, frames
from hutch_guest.processes.pipes import InputPipe
from hutch_guest.processes.process import Process
from hutch_guest.processes.request import StartRequest
from hutch_guest.processes.spawn import Program, Spawner, spawn
from hutch_guest.processes.spool import Spool
from hutch_guest.processes.terminal import spawn_in_terminal

KEEP_ENDED = 1000
KEEP_SPOOL = 600.0
KEEP_SPOOL_BYTES = 256 << 20
_PRUNE_EVERY = 32


class _Ends:
    """Descriptors made for one start: those of the child, and ours, closed again if it fails."""

    def __init__(self) -> None:
        self.child: list[int] = []
        self.ours: list[int] = []

    def pipe(self, child_reads: bool) -> tuple[int, int]:
        """A pipe: the child's end, our end."""
        reader, writer = os.pipe()
        child, ours = (reader, writer) if child_reads else (writer, reader)
        self.child.append(child)
        self.ours.append(ours)
        return child, ours

    def close(self, *, failed: bool) -> None:
        for fd in self.child + (self.ours if failed else []):
            os.close(fd)


class Manager:
    """The processes, by id."""

    def __init__(self, spool_dir: str) -> None:
        self.processes: dict[str, Process] = {}
        self.spawner = Spawner()
        self._by_pid: dict[int, Process] = {}
        self._starting: dict[str, asyncio.Task[Process]] = {}
        self._spawning = 0
        self._unclaimed: dict[int, int] = {}
        self._strangers: dict[int, asyncio.Future[int]] = {}
        self.on_disk_full: Callable[[Process], None] | None = None
        self._spool_dir = spool_dir
        self._serial = 0
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        os.makedirs(spool_dir, 0o700, exist_ok=True)
        self._null = os.open("/dev/null", os.O_RDWR)

    def get(self, id: str) -> Process:
        """The process of this id."""
        try:
            return self.processes[id]
        except KeyError:
            raise ExecNotFound(f"no process with id '{id[:64]}'") from None

    async def start(
        self, request: StartRequest, account: Account, layers: list[Mapping[str, str]], workdir: str | None
    ) -> Process:
        """Start it. The same id again answers the process that has it; `layers` are the environment below its own.

        Goes on when the caller vanishes: what has been spawned must be known here.
        """
        known = self.processes.get(request.id)
        if known is not None:
            return known
        task = self._starting.get(request.id)
        if task is None:
            task = self._loop.create_task(self._start(request, account, layers, workdir))
            self._starting[request.id] = task
            task.add_done_callback(lambda _: self._starting.pop(request.id, None))
        return await asyncio.shield(task)

    async def _start(
        self, request: StartRequest, account: Account, layers: list[Mapping[str, str]], workdir: str | None
    ) -> Process:
        self._prune()
        argv = request.argv if request.argv is not None else environment.login_shell(request.shell or "")
        terminal = {"TERM": "xterm-256color"} if request.pty else {}
        env = environment.build(account, [terminal, *layers, request.env], request.id)
        program = Program(argv, env, environment.working_directory(request.cwd, account, workdir), account)
        with self._claiming():
            process = await (self._start_in_terminal if request.pty else self._start_on_pipes)(request, program)
            process.config = {"cmd": argv[0], "args": argv[1:], "envs": request.env, "cwd": program.cwd}
            process.tag = request.tag
            self.processes[process.id] = process
            self._by_pid[process.pid] = process
            if (status := self._unclaimed.pop(process.pid, None)) is not None:
                self._ended(process, status)
        if request.timeout is not None and process.running:
            process.set_timeout(request.timeout)
        if isinstance(request.stdin, bytes):
            self._feed(process, request.stdin)
        return process

    async def start_stranger(self, program: Program, files: tuple[int, int, int]) -> tuple[int, asyncio.Future[int]]:
        """Start a program that is nobody's exec: its pid, and its wait status when it has ended."""
        ended: asyncio.Future[int] = self._loop.create_future()
        with self._claiming():
            pid = await self.spawner.run(spawn, program, files)
            if (status := self._unclaimed.pop(pid, None)) is not None:
                ended.set_result(status)
            else:
                self._strangers[pid] = ended
        return pid, ended

    @contextlib.contextmanager
    def _claiming(self) -> Iterator[None]:
        """While something is being started: keep the ends of children whose pid nobody knows yet."""
        self._spawning += 1
        try:
            yield
        finally:
            self._spawning -= 1
            if not self._spawning:
                self._unclaimed.clear()

    def _new_process(self, request: StartRequest) -> Process:
        self._serial += 1
        spool = Spool(os.path.join(self._spool_dir, str(self._serial)), request.max_spool, request.retain_all)
        process = Process(request.id, request.command, spool, request.linger)
        process.on_disk_full = self.on_disk_full
        return process

    async def _start_on_pipes(self, request: StartRequest, program: Program) -> Process:
        ends = _Ends()
        failed = True
        try:
            stdin, writer = self._stdin(request, program.cwd, ends)
            stdout, stdout_reader = ends.pipe(child_reads=False)
            stderr, stderr_reader = ends.pipe(child_reads=False)
            pid = await self.spawner.run(spawn, program, (stdin, stdout, stderr))
            failed = False
        finally:
            ends.close(failed=failed)
        process = self._new_process(request)
        process.began(pid, {frames.STDOUT: stdout_reader, frames.STDERR: stderr_reader})
        process.stdin = InputPipe(writer) if writer is not None else None
        return process

    def _stdin(self, request: StartRequest, cwd: str, ends: _Ends) -> tuple[int, int | None]:
        """The child's standard input, and our end of it."""
        if request.stdin is False:
            return self._null, None
        if not isinstance(request.stdin, str):
            return ends.pipe(child_reads=True)
        path = os.path.join(cwd, request.stdin)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            raise from_os_error(error, path) from error
        ends.child.append(fd)
        os.set_blocking(fd, True)
        return fd, None

    async def _start_in_terminal(self, request: StartRequest, program: Program) -> Process:
        cols, rows = request.pty or (80, 24)
        pid, master = await self.spawner.run(spawn_in_terminal, program, cols, rows)
        process = self._new_process(request)
        writer = os.dup(master)
        process.began(pid, {frames.PTY: master})
        process.stdin = InputPipe(writer)
        process.terminal = writer
        return process

    def _feed(self, process: Process, data: bytes) -> None:
        """Write its given input, then end-of-file."""

        async def feed(stdin: InputPipe) -> None:
            with contextlib.suppress(GuestError):  # it ended, or does not read: both are its own business
                await stdin.write(data)
                await stdin.finish()

        if process.stdin is not None:
            task = self._loop.create_task(feed(process.stdin))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    # ends

    def reap(self) -> None:
        """Collect every child that has ended: ours, and orphans that were handed to us."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            process = self._by_pid.get(pid)
            if process is not None:
                self._ended(process, status)
            elif (stranger := self._strangers.pop(pid, None)) is not None:
                if not stranger.done():
                    stranger.set_result(status)
            elif self._spawning:
                self._unclaimed[pid] = status  # perhaps one that ended before we were told its pid

    def _ended(self, process: Process, status: int) -> None:
        del self._by_pid[process.pid]
        process.ended(status)

    async def forget(self, id: str) -> None:
        """Kill the process's tree and remove every trace of it."""
        process = self.get(id)
        await process.kill()
        self.reap()
        if self.processes.get(id) is process:
            del self.processes[id]
        process.forget()

    async def close(self) -> None:
        """End and forget everything."""
        await asyncio.gather(*(process.kill() for process in self.processes.values() if process.running))
        self.reap()
        for process in self.processes.values():
            process.forget()
        self.processes.clear()
        self.spawner.close()

    def _prune(self) -> None:
        """Forget the oldest ended ones when there are many, and the old spools when they are large."""
        if self._serial % _PRUNE_EVERY and len(self.processes) <= KEEP_ENDED:
            return
        ended = [process for process in self.processes.values() if process.finished]
        kept = sum(process.spool.size for process in ended)
        for number, process in enumerate(ended):
            unread = process.spool.retain_all and process.spool.acked < process.spool.end
            if unread:
                continue
            old = time.time() - (process.ended_at or 0) > KEEP_SPOOL
            if len(ended) - number > KEEP_ENDED:
                del self.processes[process.id]
                process.forget()
            elif kept > KEEP_SPOOL_BYTES and old:
                kept -= process.spool.size
                process.spool.drop()
