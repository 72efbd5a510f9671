"""`kill -9` at a random moment of a busy process."""

from __future__ import annotations

import asyncio
import random
import re
import sys
from pathlib import Path

from hutch.snapshots import SnapshotStore
from tests.unit.snapshots.inspect import consistent, settle
from tests.unit.snapshots.make import frozen, read

ROOT = Path(__file__).parent.parent.parent.parent

_BUSY = """
import asyncio, os, random, sys
from pathlib import Path
from hutch.snapshots import SnapshotStore
from tests.unit.snapshots.make import admit, frozen, read, record

async def work(store, number):
    chance = random.Random(number)
    mine = [one.id for one in await store.records(sandbox=f"sbx_{number}")]
    while True:
        first = chance.randrange(1, 1000)
        one = record(first, sandbox_id=f"sbx_{number}", turn=first)
        await admit(store, frozen(first, 60), one)
        os.write(1, f"admitted {one.id}\\n".encode())
        mine.append(one.id)
        if chance.random() < 0.5:
            await store.wait_stored(one.id)
        await read(store, chance.choice(mine))
        if len(mine) > 4:
            gone = mine.pop(chance.randrange(len(mine)))
            os.write(1, f"deleting {gone}\\n".encode())
            await store.delete(gone)
        if chance.random() < 0.3:
            await store.collect()

async def main():
    store = await SnapshotStore.open(Path(sys.argv[1]), cache_bytes=0, cpu_share=1)
    await asyncio.gather(*(work(store, number) for number in range(3)))

asyncio.run(main())
"""


async def test_every_admitted_snapshot_survives_and_nothing_is_left_over(tmp_path: Path) -> None:
    root, chance = tmp_path / "root", random.Random(7)
    there: set[str] = set()
    unsure: set[str] = set()
    for _ in range(4):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _BUSY, str(root)), stdout=asyncio.subprocess.PIPE, cwd=ROOT
        )
        assert process.stdout is not None
        said = [await process.stdout.readline()]
        await asyncio.sleep(chance.uniform(0.1, 1.5))
        process.kill()
        said += (await process.stdout.read()).splitlines()
        await process.wait()
        for line in said:
            if match := re.fullmatch(r"(admitted|deleting) (snp_\w{22})\n?", line.decode()):
                (there if match[1] == "admitted" else unsure).add(match[2])
        assert there, said
        store = await SnapshotStore.open(root, cache_bytes=0, cpu_share=1)
        found = {one.id: one for one in await store.records()}
        assert there - unsure <= set(found)
        await settle(store)
        for id, one in found.items():
            await store.verify(id)
            assert await read(store, id) == frozen(one.turn or 0, 60)
        there, unsure = set(found), set()
        await store.close()
        consistent(root)
