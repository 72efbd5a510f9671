"""A PostgreSQL of the tests' own: a cluster in a directory that goes with it, reached by a Unix socket only."""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import asyncpg

from hutch.store import Store

_PATIENCE = 60.0
_SETTINGS = ("listen_addresses=", "fsync=off", "full_page_writes=off", "shared_buffers=16MB", "autovacuum=off")


def program(name: str) -> Path | None:
    """Debian keeps the server's programs out of the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]))
    here = shutil.which(name)
    return found[-1] if found else Path(here) if here else None


class Postgres:
    """Starts when it is made; `stop` it. Databases are copies of one that has today's tables. `prepared`: where the
    first of a run's workers leaves a new cluster for the others to copy."""

    def __init__(self, base: str | None, prepared: Path) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="hu-pg-", dir=base))
        self._numbers = itertools.count()
        self._as = pwd.getpwnam("nobody") if os.geteuid() == 0 else None  # root may not run it
        if self._as:
            os.chown(self._directory, self._as.pw_uid, self._as.pw_gid)
        try:
            self._server = self._start(prepared)
        except BaseException:
            shutil.rmtree(self._directory)
            raise
        try:
            self._ready()
            self._make("template", "template1")
            aside(_migrated(self.url("template")))
        except BaseException:
            self.stop()
            raise

    def url(self, name: str) -> str:
        """Of a database, as `HUTCH_DATABASE_URL` would have it."""
        return f"postgresql+asyncpg://hutch@/{name}?host={self._directory}"

    def database(self, *, empty: bool = False) -> str:
        """The name of a new one; `empty`: without tables."""
        name = f"test{next(self._numbers)}"
        self._make(name, "template1" if empty else "template")
        return name

    def drop(self, name: str) -> None:
        """It takes memory as long as it is there."""
        aside(self._run(f"DROP DATABASE {name} WITH (FORCE)"))

    def stop(self) -> None:
        """And nothing is left of it."""
        self._server.send_signal(signal.SIGQUIT)  # at once: nobody needs what is in it
        self._server.wait()
        shutil.rmtree(self._directory)

    def _start(self, prepared: Path) -> subprocess.Popen[bytes]:
        data = str(self._directory / "data")
        with prepared.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if prepared.exists():
                subprocess.run(["cp", "-a", str(prepared), data], check=True)
            else:
                self._make_cluster(data)
                subprocess.run(["cp", "-a", data, f"{prepared}.new"], check=True)
                os.rename(f"{prepared}.new", prepared)
        options = [part for each in _SETTINGS for part in ("-c", each)]
        with (self._directory / "log").open("wb") as log:
            return subprocess.Popen(
                [str(program("postgres")), "-D", data, "-k", str(self._directory), *options],
                stdout=log,
                stderr=log,
                **self._user(),
            )

    def _make_cluster(self, data: str) -> None:
        subprocess.run(
            [str(program("initdb")), "-D", data, "-U", "hutch", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"],
            check=True,
            stdout=subprocess.DEVNULL,
            **self._user(),
        )

    def _user(self) -> dict[str, Any]:
        own = {"user": self._as.pw_uid, "group": self._as.pw_gid, "extra_groups": []} if self._as else {}
        return {"cwd": self._directory, "env": {"PATH": os.environ["PATH"]}} | own

    def _ready(self) -> None:
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                return aside(self._run("SELECT 1"))
            except (OSError, asyncpg.CannotConnectNowError):
                if self._server.poll() is not None or time.monotonic() > until:
                    raise RuntimeError((self._directory / "log").read_text()) from None
                time.sleep(0.02)

    def _make(self, name: str, source: str) -> None:
        aside(self._run(f"CREATE DATABASE {name} TEMPLATE {source} STRATEGY FILE_COPY"))

    async def _run(self, statement: str) -> None:
        connection = await asyncpg.connect(host=str(self._directory), user="hutch", database="postgres")
        try:
            await connection.execute(statement)
        finally:
            await connection.close()


async def _migrated(url: str) -> None:
    await (await Store.open(url)).close()


def aside(work: Coroutine[Any, Any, None]) -> None:
    """Run it to its end; the event loops of the tests are none of its business."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, work).result()
