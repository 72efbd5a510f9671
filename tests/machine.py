"""A Hutch of a test's own: real daemons in temporary directories, which the test may kill and start again at will."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

import httpx

from tests.leaks import assert_clean
from tests.programs import Program, run

Daemon = Literal["node", "api"]
LAST_WORDS = 4000


class Machine:
    """The two daemons without the supervisor, so that the test alone decides when one starts or dies."""

    def __init__(self, **settings: str) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="ht-", dir="/tmp"))
        self.root.chmod(0o755)
        values = {
            "data_dir": str(self.root / "data"),
            "run_dir": str(self.root / "run"),
            "port": "0",
            "gateway_port": "0",
            **settings,
        }
        self._env = {**os.environ, **{f"HUTCH_{name.upper()}": value for name, value in values.items()}}
        self._env["HUTCH_FIRST_KEY_FILE"] = str(self.root / "first-key")
        self._processes: dict[Daemon, Program] = {}
        self.url = ""
        self.key = ""

    @property
    def data_dir(self) -> Path:
        return self.root / "data"

    def log(self, daemon: Daemon) -> str:
        """All the daemon has said."""
        path = self.root / f"{daemon}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def spawn(self, daemon: Daemon) -> None:
        """Start the daemon; it may not answer yet."""
        with (self.root / f"{daemon}.log").open("ab") as log:
            self._processes[daemon] = Program(f"hutch.{daemon}", env=self._env, stdout=log, stderr=log)

    def kill(self, daemon: Daemon) -> None:
        """`kill -9`, and wait for the corpse."""
        process = self._processes.pop(daemon)
        process.kill()
        process.wait()

    async def start(self) -> None:
        """Start both and wait until a sandbox could be made."""
        self.spawn("node")
        self.spawn("api")
        await self.ready()

    async def ready(self, timeout: float = 120) -> None:
        """Wait until the server answers and reaches the node."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            for daemon, process in self._processes.items():
                if process.poll() is not None:
                    raise AssertionError(f"{daemon} has ended: {self.log(daemon)[-LAST_WORDS:]}")
            try:
                self._find()
                async with self.client(timeout=5) as client:
                    if (await client.get("/v1/node")).status_code == 200:
                        return
            except (OSError, ValueError, KeyError, httpx.HTTPError):
                pass
            await asyncio.sleep(0.05)
        raise AssertionError(f"not ready: {self.log('api')[-LAST_WORDS:]}\n{self.log('node')[-LAST_WORDS:]}")

    def _find(self) -> None:
        self.url = json.loads((self.root / "run" / "api.json").read_text())["url"]
        self.key = self.key or (self.root / "first-key").read_text().strip()

    def client(self, timeout: float = 60) -> httpx.AsyncClient:
        """An HTTP client with the key."""
        return httpx.AsyncClient(
            base_url=self.url, headers={"Authorization": f"Bearer {self.key}"}, timeout=timeout, trust_env=False
        )

    async def create(self, **body: Any) -> dict[str, Any]:
        """`POST /v1/sandboxes`."""
        async with self.client() as client:
            answer = await client.post("/v1/sandboxes", json=body)
        assert answer.status_code == 201, answer.text
        created: dict[str, Any] = answer.json()
        return created

    async def build(self, template: str) -> None:
        """`POST /v1/templates/{name}/build`, to its end: with the settings' `template_snapshots`, its snapshot too."""
        async with self.client(timeout=300) as client:
            answer = await client.post(f"/v1/templates/{template}/build")
        last = json.loads(answer.text.splitlines()[-1])
        assert last["type"] == "done" and last["note"] is None, answer.text[-LAST_WORDS:]

    async def stop(self) -> None:
        """End the daemons, destroy every sandbox, and check that nothing of this Hutch is left on the host."""
        await asyncio.to_thread(self._stop)

    def _stop(self) -> None:
        if server := self._processes.pop("api", None):
            self._end(server, signal.SIGTERM)
        node_process = self._processes.pop("node", None)
        if node_process is None or self._end(node_process, signal.SIGUSR1) != 0:
            run("hutch.node", "--remove-all", env=self._env).check_returncode()
        node = (self.data_dir / "node" / "id").read_text().strip()
        shutil.rmtree(self.root)
        assert_clean(node, self.root)

    @staticmethod
    def _end(process: Program, by: signal.Signals) -> int:
        process.send_signal(by)
        try:
            return process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()
