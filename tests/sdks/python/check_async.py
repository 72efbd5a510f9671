"""The asynchronous client: the same calls, and streams at once."""

from __future__ import annotations

import asyncio

from e2b import AsyncSandbox


def test_the_asynchronous_client() -> None:
    asyncio.run(_use())


async def _use() -> None:
    sandbox = await AsyncSandbox.create(timeout=120)
    try:
        told = await asyncio.gather(*(sandbox.commands.run(f"echo {number}") for number in range(8)))
        assert [one.stdout for one in told] == [f"{number}\n" for number in range(8)]
        seen: list[str] = []
        arrived = asyncio.Event()

        async def event(found: object) -> None:
            seen.append(found.name)  # type: ignore[attr-defined]
            arrived.set()

        await sandbox.files.make_dir("watched")
        watch = await sandbox.files.watch_dir("watched", on_event=event)
        await sandbox.files.write("watched/new", "1")
        await asyncio.wait_for(arrived.wait(), 15)
        await watch.stop()
        assert seen[0] == "new"
        command = await sandbox.commands.run("cat", background=True, stdin=True)
        await sandbox.commands.send_stdin(command.pid, "x")
        await sandbox.commands.close_stdin(command.pid)
        assert (await command.wait()).stdout == "x"
        pieces = [piece async for piece in await sandbox.files.read("watched/new", format="stream")]
        assert b"".join(pieces) == b"1"
    finally:
        assert await sandbox.kill()
