"""Volumes through crashes: the server dies, then the node, both while a sandbox writes and while one is paused."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Literal

import pytest
from tests.machine import Machine

from hutch.errors import Conflict, HutchError
from hutch.sdk import Hutch, Sandbox

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

WRITER = "i=0; while :; do i=$((i+1)); echo $i >> /data/log || echo $i >> /tmp/failed; sleep 0.02; done"
GROWS = "a=$(wc -l < /data/log); until [ $(wc -l < /data/log) -gt $a ]; do sleep 0.05; done; cat /tmp/failed"


@pytest.fixture
def machine(standard_template: str) -> Iterator[Machine]:
    machine = Machine(slots_ahead="2")
    try:
        asyncio.run(machine.start())
        yield machine
    finally:
        asyncio.run(machine.stop())


def restart(machine: Machine, *daemons: Literal["node", "api"]) -> None:
    for daemon in daemons:
        machine.kill(daemon)
    for daemon in daemons:
        machine.spawn(daemon)
    asyncio.run(machine.ready())


def test_writers_go_on_through_crashes_and_nothing_is_lost(machine: Machine) -> None:
    with Hutch(machine.url, machine.key) as client:
        volume = client.volumes.create("data")
        box = Sandbox.create(volumes={"/data": "data"}, client=client)
        box.start(WRITER)
        box.exec("until [ -s /data/log ]; do sleep 0.05; done; touch /tmp/failed")
    for daemons in (("api",), ("node",)):
        restart(machine, *daemons)
        with Hutch(machine.url, machine.key) as client:
            grown = client.sandboxes.get(box.id).exec(GROWS, timeout=30)
            assert (grown.exit_code, grown.stdout) == (0, ""), daemons
    with Hutch(machine.url, machine.key) as client:
        client.sandboxes.get(box.id).pause()
    restart(machine, "api", "node")
    with Hutch(machine.url, machine.key) as client:
        box = client.sandboxes.get(box.id)
        box.resume()
        box.exec("pkill -f '[d]ata/log'; sync; true")
        lines = box.exec("cat /data/log").stdout.split()
        assert lines == [str(number + 1) for number in range(len(lines))]  # each once, in its order
        with pytest.raises(Conflict, match="mounted"):
            client.volumes.delete("data")
        box.kill()
        used = client.volumes.list().used_bytes
        client.volumes.delete(volume.id)
        assert (used > 0, client.volumes.list().used_bytes) == (True, 0)
        with pytest.raises(HutchError, match="no volume"):
            Sandbox.create(volumes={"/data": "data"}, client=client)
    assert not any((machine.data_dir / "server" / "volumes").iterdir())
