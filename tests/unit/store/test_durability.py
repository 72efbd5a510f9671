"""What was committed survives `kill -9` of the process that committed it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from hutch.store import Store

_WRITER = """
import asyncio, sys
from hutch.store import Store
from hutch.store.events import NewEvent
from hutch.store.sandboxes import SandboxRow
from hutch.store.tasks import TaskRow

async def main():
    store = await Store.open(sys.argv[1])
    async with store.database.write() as connection:
        await store.sandboxes.insert(connection, SandboxRow("sbx_1", "o", "running", "t", {}, {}, 1.0, 1e12))
        await store.tasks.insert(connection, TaskRow("tsk_1", "o", "sbx_1", "command", "p", 1.0), "p")
    number = 0
    while True:
        async with store.database.write() as connection:
            batch = [NewEvent("output", {"n": number + i}, 1.0) for i in range(7)]
            await store.events.append(connection, "tsk_1", batch)
        number += 7
        print(number, flush=True)

asyncio.run(main())
"""


async def test_every_committed_event_survives_kill_9(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'hutch.db'}"
    with subprocess.Popen([sys.executable, "-c", _WRITER, url], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        committed = [int(writer.stdout.readline()) for _ in range(40)][-1]
        writer.kill()
        committed = max([committed, *(int(line) for line in writer.stdout.read().split())])
    store = await Store.open(url)
    found = await store.events.read("tsk_1", 1, 100_000)
    await store.close()
    assert len(found) >= committed
    assert len(found) % 7 == 0  # a transaction is there whole or not at all
    assert [(event.offset, event.data["n"]) for event in found] == [(i + 1, i) for i in range(len(found))]
