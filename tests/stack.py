"""A whole Hutch of a test's own, server and node as real processes, and sandboxes whose content can be known: files,
and a process with a number in its memory. Blocking, for tests that do one thing after the other or use threads."""

from __future__ import annotations

import json
import signal
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx

from tests.inside import program
from tests.node_host import NodeHost
from tests.programs import Program

_ADD = "{ exec 3<>/dev/tcp/127.0.0.1/7000; } 2>/dev/null && echo NUMBER >&3 && cat <&3"
_LOOK = f"{_ADD.replace('NUMBER', '0')} || echo none none; cd /home/user/kept && sha256sum * 2>/dev/null; true"


@dataclass(frozen=True)
class Content:
    """What is in a sandbox."""

    total: int | None = 0
    """None: the process is gone."""
    noise: str = ""
    files: dict[str, str] = field(default_factory=dict)
    """Hashes by name."""

    def without_memory(self) -> Content:
        return replace(self, total=None, noise="")

    def with_file(self, name: str, hash: str) -> Content:
        return replace(self, files=self.files | {name: hash})


class Stack(NodeHost):
    """The node of `NodeHost`, and a server over it."""

    def __init__(self, **settings: str) -> None:
        super().__init__(port="0", **settings)
        self._env["HUTCH_FIRST_KEY_FILE"] = str(self.root / "first-key")
        self._server: Program | None = None
        self._url = ""

    # --- its processes

    def up(self) -> None:
        """Start what does not run, and wait until it all answers."""
        if self._process is None or self._process.poll() is not None:
            self.spawn()
        if self._server is None or self._server.poll() is not None:
            self.spawn_server()
        self.ready()

    def spawn_server(self) -> None:
        """Start the server, without waiting for it."""
        with (self.root / "server.log").open("ab") as log:
            self._server = Program("hutch.api", env=self._env, stdout=log, stderr=log)

    def kill_server(self) -> None:
        """`kill -9`."""
        assert self._server is not None
        self._server.kill()
        self._server.wait()

    def ready(self, timeout: float = 60) -> None:
        """Wait until the server answers, and reaches the node."""
        end = time.monotonic() + timeout
        while True:
            try:
                self._url = json.loads((self.root / "r" / "api.json").read_text())["url"]
                if self.ask("GET", "/v1/node", timeout=5).status_code == 200:
                    return
            except (OSError, ValueError, httpx.HTTPError):
                pass
            assert time.monotonic() < end, self.words()
            time.sleep(0.05)

    def words(self) -> str:
        """What the daemons said last."""
        logs = [self.root / "server.log", self.root / "log"]
        return "\n".join(path.read_text(errors="replace")[-4000:] for path in logs if path.exists())

    def end(self) -> None:
        """Stop both properly; the sandboxes go on."""
        if self._server is not None and self._server.poll() is None:
            self._server.send_signal(signal.SIGTERM)
            self._server.wait(30)
        if self._process is not None and self._process.poll() is None:
            self.stop()

    def kill_if_running(self) -> None:
        if self._server is not None and self._server.poll() is None:
            self.kill_server()
        super().kill_if_running()

    def stop_and_remove(self) -> bool:
        if self._server is not None and self._server.poll() is None:
            self.kill_server()
        return super().stop_and_remove()

    def set(self, name: str, value: object) -> None:
        """A setting, for daemons that start from now on."""
        self._env[f"HUTCH_{name.upper()}"] = str(value)

    def kept(self, kind: str) -> Path:
        """A directory of the store of snapshots: `hot`, `packs`."""
        return self.node_dir / "snapshots" / kind

    # --- its API

    def client(self, timeout: float = 120) -> httpx.Client:
        """With the key; good until the server is killed."""
        headers = {"Authorization": f"Bearer {(self.root / 'first-key').read_text().strip()}"}
        return httpx.Client(base_url=self._url, headers=headers, timeout=timeout, trust_env=False)

    def ask(self, method: str, path: str, body: Any = None, timeout: float = 120, **more: Any) -> httpx.Response:
        """One call of the API."""
        with self.client(timeout) as client:
            return client.request(method, path, json=body, **more)

    def get(self, path: str) -> Any:
        """What is there."""
        return self.must(self.ask("GET", path))

    def must(self, answer: httpx.Response) -> Any:
        """The answer's content, if it was a good one."""
        assert answer.status_code < 300, f"{answer.status_code} {answer.text}\n{self.words()}"
        return answer.json() if answer.content else None

    def change(self, box: str, verb: str, body: Any = None) -> Any:
        """`POST /v1/sandboxes/{box}/{verb}`."""
        return self.must(self.ask("POST", f"/v1/sandboxes/{box}/{verb}", body))

    def delete(self, box: str) -> None:
        """End the sandbox."""
        self.must(self.ask("DELETE", f"/v1/sandboxes/{box}"))

    def state(self, box: str) -> str:
        """As the API shows it."""
        return str(self.get(f"/v1/sandboxes/{box}")["state"])

    def sandboxes(self) -> list[str]:
        """The ids of all that have not ended."""
        return [box["id"] for box in self.get("/v1/sandboxes")["sandboxes"]]

    # --- sandboxes whose content is known

    def make(self, memory_mib: int = 256) -> tuple[str, Content]:
        """A sandbox with a counter in it."""
        resources = {"cpus": 1, "memory_mib": memory_mib, "disk_mib": 128, "pids": 64}
        request = {"template": "standard", "resources": resources}
        box = self.must(self.ask("POST", "/v1/sandboxes", request))["id"]
        path, params = f"/v1/sandboxes/{box}/files", {"path": "/tmp/counter.py"}
        self.must(self.ask("PUT", path, params=params, content=program("counter")))
        return box, self.start_counter(box)

    def start_counter(self, box: str) -> Content:
        """In a sandbox that has none; what is in it then."""
        start = "mkdir -p /home/user/kept; exec python3 /tmp/counter.py"
        self.change(box, "exec", {"command": start, "background": True})
        end = time.monotonic() + 20
        while (content := self.contents(box)).total is None:
            assert time.monotonic() < end, self.words()
            time.sleep(0.05)
        return content

    def execute(self, box: str, command: str) -> str:
        """What a command that succeeds prints."""
        ran = self.change(box, "exec", {"command": ["bash", "-c", command]})
        assert ran["exit_code"] == 0, ran
        return str(ran["stdout"])

    def add(self, box: str, number: int) -> int:
        """To the number in the process's memory; the sum."""
        return int(self.execute(box, _ADD.replace("NUMBER", str(number))).split()[0])

    def write(self, box: str, name: str, data: bytes) -> None:
        """A file."""
        params = {"path": f"/home/user/kept/{name}"}
        self.must(self.ask("PUT", f"/v1/sandboxes/{box}/files", params=params, content=data))

    def contents(self, box: str) -> Content:
        """What is in it."""
        said = self.execute(box, _LOOK).splitlines()
        total, noise = said[0].split()
        files = dict(reversed(line.split()) for line in said[1:])  # type: ignore[arg-type]
        return Content(files=files).without_memory() if total == "none" else Content(int(total), noise, files)
