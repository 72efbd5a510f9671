"""Starts the two daemons, starts them again when they die, stops them in order."""

from __future__ import annotations

import asyncio
import os
import pwd
import signal
import sys
import time
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from hutch.cli.console import note
from hutch.cli.host import (
    HostProblem,
    StateFile,
    find_daemons,
    node_health,
    node_sandboxes,
    said_port,
    server_url,
    stop_processes,
)
from hutch.cli.naming import NAMES
from hutch.settings import Settings

READY_SECONDS = 60.0
STOP_SECONDS = 25.0
REMOVE_SECONDS = 80.0
"""How long a node may take to stop and end its sandboxes; after that another process does it."""
STOP_AND_REMOVE = signal.SIGUSR1
"""What the node is told for that."""
FIRST_DELAY, MOST_DELAY, HEALTHY_SECONDS = 0.2, 10.0, 30.0
_LOG_LIMIT = 64 << 20
_CERTIFICATE_SECONDS = 10.0


def first_key_path(settings: Settings) -> Path:
    """Where the server leaves the first key, for us to hand over and delete."""
    return settings.run_dir / "up" / "first-key"


class Daemon:
    """One of the two, over all its lives."""

    def __init__(self, module: str, environment: dict[str, str], logs: Path | None) -> None:
        self.module = module
        self.environment = environment
        self._logs = logs
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False

    @property
    def name(self) -> str:
        return self.module.rpartition(".")[2]

    async def start(self) -> None:
        """A new life."""
        log = self._open_log()
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", self.module,
                env=self.environment, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,  # Ctrl-C in our terminal is ours, and they outlive us if we are killed
            )  # fmt: skip
        finally:
            if log:
                log.close()

    async def keep(self) -> None:
        """Start it again whenever it dies, more slowly when it dies at once."""
        delay = FIRST_DELAY
        while not self._stopping:
            assert self._process is not None
            born = time.monotonic()
            code = await self._process.wait()
            if self._stopping:
                return
            delay = FIRST_DELAY if time.monotonic() - born > HEALTHY_SECONDS else min(MOST_DELAY, delay * 2)
            note(f"{self.name} {_how_ended(code)}; starting it again. Sandboxes are not affected.", "yellow")
            await asyncio.sleep(delay)
            if not self._stopping:
                await self.start()

    async def stop(self, by: signal.Signals = signal.SIGTERM, within: float = STOP_SECONDS) -> bool:
        """Its last end; whether it came to it properly."""
        self._stopping = True
        if self._process is None or self._process.returncode is not None:
            return False
        self._process.send_signal(by)
        try:
            return await asyncio.wait_for(self._process.wait(), within) == 0
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
            return False

    @property
    def dead(self) -> bool:
        """Whether it has just died."""
        return self._process is not None and self._process.returncode is not None

    def _open_log(self) -> IO[bytes] | None:
        if self._logs is None:
            return None
        path = self._logs / f"{self.name}.log"
        if path.exists() and path.stat().st_size > _LOG_LIMIT:
            path.replace(path.with_suffix(".log.1"))
        return path.open("ab")


class Supervisor:
    """`hutch up` itself."""

    def __init__(self, settings: Settings, state: StateFile, logs: Path | None, keep: bool) -> None:
        self._settings = settings
        self._state = state
        self._keep = keep
        environment = {**os.environ, "HUTCH_RUN_DIR": str(settings.run_dir)}
        environment["HUTCH_FIRST_KEY_FILE"] = str(first_key_path(settings))
        self._node = Daemon("hutch.node", environment, logs)
        self._api = Daemon("hutch.api", environment, logs)
        self._stop = asyncio.Event()

    async def start(self) -> str:
        """Start both; the server's URL when they answer. `HostProblem` when one cannot start."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGUSR1, self._stop_and_keep)
        await asyncio.to_thread(stop_processes, find_daemons(self._settings))  # of a supervisor that was killed
        try:
            for daemon in (self._node, self._api):
                await daemon.start()
            url = await self._ready()
        except BaseException:
            await self._end_daemons()
            raise
        # Ports that were chosen freely stay the same over the server's lives.
        self._api.environment["HUTCH_PORT"] = str(urlsplit(url).port)
        for setting, name in (("HUTCH_GATEWAY_PORT", "gateway"), ("HUTCH_TLS_PORT", "tls")):
            if (port := said_port(self._settings, name)) is not None:
                self._api.environment[setting] = str(port)
        names = self._settings.model_dump(mode="json", include=NAMES)
        self._state.write(url=url, ready=True, names=names)
        return url

    async def watch(self) -> int:
        """Keep both alive until told to stop; then stop everything. The number of sandboxes that were destroyed."""
        keepers = [asyncio.create_task(daemon.keep()) for daemon in (self._node, self._api)]
        certificate = asyncio.create_task(self._keep_certificate())
        await self._stop.wait()
        certificate.cancel()
        running = len(await asyncio.to_thread(node_sandboxes, self._settings))
        self._state.write(stopping=True, sandboxes=running, kept=self._keep)
        if self._keep:
            await self._end_daemons()
            note(f"{running} sandboxes run on; `hutch up` takes them over again" if running else "stopped")
        else:
            await self._api.stop()
            if not await self._node.stop(STOP_AND_REMOVE, REMOVE_SECONDS):
                await remove_all(self._settings)
        await asyncio.gather(*keepers)
        return 0 if self._keep else running

    async def _keep_certificate(self) -> None:
        """The server is not root: bring it the certificate whenever that has changed."""
        if not self._settings.tls_wanted:
            return
        from hutch.tls import TlsProblem, place_for

        user = pwd.getpwnam(self._settings.server_user)
        said = ""
        while True:
            await asyncio.sleep(_CERTIFICATE_SECONDS)
            try:
                await asyncio.to_thread(place_for, self._settings, user.pw_uid, user.pw_gid)
                said = ""
            except TlsProblem as problem:
                if said != (said := str(problem)):
                    note(f"the last certificate stays: {said}", "yellow")
            except Exception as error:  # what is in the files is not ours, and a later one may be good
                if said != (said := repr(error)):
                    note(f"the last certificate stays: {said}", "yellow")

    async def _ready(self) -> str:
        end = time.monotonic() + READY_SECONDS
        while time.monotonic() < end:
            for daemon in (self._node, self._api):
                if daemon.dead:
                    raise HostProblem(
                        f"{daemon.name} cannot start", hint="Its last words stand above; see `hutch doctor`."
                    )
            if self._stop.is_set():
                raise HostProblem("stopped before it was ready")
            if url := await asyncio.to_thread(_answering, self._settings):
                return url
            await asyncio.sleep(0.05)
        raise HostProblem(f"not ready after {READY_SECONDS:.0f} s", hint="`hutch doctor` says what is wrong.")

    async def _end_daemons(self) -> None:
        await self._api.stop()
        await self._node.stop()

    def _stop_and_keep(self) -> None:
        self._keep = True
        self._stop.set()


async def remove_all(settings: Settings) -> None:
    """Destroy all sandboxes and clean the host; works with no daemon running."""
    environment = {**os.environ, "HUTCH_RUN_DIR": str(settings.run_dir)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "hutch.node", "--remove-all",
        env=environment, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    output, _ = await process.communicate()
    if process.returncode:
        last = output.decode(errors="replace").strip().splitlines()[-1:]
        raise HostProblem(f"not everything could be removed: {' '.join(last)}", hint="Run `hutch down` again.")


def _answering(settings: Settings) -> str | None:
    """The server's URL, when both answer."""
    return server_url(settings) if node_health(settings) else None


def _how_ended(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
