"""A template build through E2B's API, with the server and the node killed in the middle of it."""

from __future__ import annotations

import asyncio
import io
import tarfile
import time
from typing import Any

import httpx
import pytest
from tests.machine import Daemon, Machine

from hutch.model.e2b import e2b_key, hutch_sandbox_id

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

_PATIENCE = 240.0


class Builder:
    """What a client of E2B's does, one call at a time."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._path = ""

    async def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        headers = {"X-API-KEY": e2b_key(self._machine.key) or ""}
        async with httpx.AsyncClient(base_url=self._machine.url, timeout=60, trust_env=False) as client:
            answer = await client.request(method, path, headers=headers, **more)
        assert answer.status_code < 300, answer.text
        return answer

    async def begin(self, name: str, steps: list[dict[str, Any]], **base: Any) -> None:
        asked = (await self.ask("POST", "/v3/templates", json={"name": name})).json()
        self._path = f"/templates/{asked['templateID']}/builds/{asked['buildID']}"
        for step in steps:
            if hash := step.get("filesHash"):
                link = (await self.ask("GET", f"/templates/{asked['templateID']}/files/{hash}")).json()
                assert not link["present"]
                await self.ask("PUT", link["url"], content=_archive())
                link = (await self.ask("GET", f"/templates/{asked['templateID']}/files/{hash}")).json()
                assert link["present"]
        await self.ask("POST", f"/v2{self._path}", json={"fromImage": "e2bdev/base", "steps": steps} | base)

    async def look(self) -> tuple[str, list[str], dict[str, Any]]:
        """Its state, and all of its log."""
        lines: list[str] = []
        while True:
            status = (await self.ask("GET", f"{self._path}/status", params={"logsOffset": len(lines)})).json()
            lines += [entry["message"] for entry in status["logEntries"]]
            if not status["logEntries"]:
                return status["status"], lines, status.get("reason") or {}

    async def until(self, line: str, times: int) -> list[str]:
        """Wait until the log has a line that begins so, so many times."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            state, lines, reason = await self.look()
            if sum(each.startswith(line) for each in lines) >= times:
                return lines
            assert state in ("waiting", "building") and time.monotonic() < deadline, (state, reason, lines)
            await asyncio.sleep(0.1)

    async def end(self) -> tuple[str, list[str], dict[str, Any]]:
        deadline = time.monotonic() + _PATIENCE
        while (found := await self.look())[0] in ("waiting", "building"):
            assert time.monotonic() < deadline, found
            await asyncio.sleep(0.2)
        return found


def _archive() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        member = tarfile.TarInfo("sent.txt")
        member.size = 4
        tar.addfile(member, io.BytesIO(b"sent"))
    return packed.getvalue()


async def test_a_build_outlives_its_daemons(standard_template: str) -> None:
    machine, stamp = Machine(slots_ahead="2", template_snapshots="true"), str(time.time_ns())
    builder = Builder(machine)
    try:
        await machine.start()
        copy = {"type": "COPY", "args": ["sent.txt", "/srv/"], "filesHash": f"f{stamp}"}
        steps = [
            {"type": "RUN", "args": [f"echo {stamp} > first; sleep 2.5"]},
            copy,
            {"type": "RUN", "args": ["echo begun; sleep 4; cat first > third"]},
        ]
        await builder.begin("killed", steps)
        await builder.until("begun", 1)
        machine.kill("api")
        machine.spawn("api")
        await machine.ready()
        # The first step took so long that it was kept; the sandbox is another.
        lines = await builder.until("begun", 2)
        assert sum(line.startswith("CACHED [1/3]") for line in lines) == 1
        machine.kill("node")
        machine.spawn("node")
        await machine.ready()
        # What is half made of the image is made anew, and nothing of it is left.
        await builder.until("[finalize] The image", 1)
        daemons: tuple[Daemon, ...] = ("node", "api")
        for daemon in daemons:
            machine.kill(daemon)
        for daemon in daemons:
            machine.spawn(daemon)
        await machine.ready()
        state, lines, reason = await builder.end()
        assert state == "ready", (reason, lines)
        assert sum(line.startswith("CACHED [3/3]") for line in lines) == 1
        layers = machine.data_dir / "node" / "templates" / "layers"
        assert [path.name for path in layers.iterdir() if path.name.startswith(".")] == []
        made = (await builder.ask("POST", "/v2/sandboxes", json={"templateID": "killed"})).json()
        id = hutch_sandbox_id(made["sandboxID"])
        async with machine.client() as client:
            assert (await client.get(f"/v1/sandboxes/{id}")).json()["start"] in ("thaw", "warm")
            found = await client.post(f"/v1/sandboxes/{id}/exec", json={"command": "cat third /srv/sent.txt"})
            assert found.json()["stdout"] == f"{stamp}\nsent"
            left = (await client.get("/v1/sandboxes")).json()["sandboxes"]
        assert [box["id"] for box in left] == [id]
    finally:
        await machine.stop()
