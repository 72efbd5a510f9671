"""Running programs: lines, failures, and nothing left when it is cancelled."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from hutch.errors import TemplateBuildFailed
from hutch.images.command import output, run


async def collected(script: str) -> list[str]:
    lines: list[str] = []

    async def log(line: str) -> None:
        lines.append(line)

    await run(["sh", "-c", script], what="the script", log=log)
    return lines


async def test_both_streams_come_line_by_line() -> None:
    assert await collected("echo one; echo two >&2; printf 'three\\r50%%\\rdone'") == [
        "one",
        "two",
        "three",
        "50%",
        "done",
    ]


async def test_an_endless_line_is_cut_and_odd_bytes_do_no_harm() -> None:
    lines = await collected("head -c 300000 /dev/zero | tr '\\0' x; printf '\\377\\n'")
    assert sum(map(len, lines)) == 300001
    assert max(map(len, lines)) < 200000


async def test_a_failure_tells_what_failed_and_the_last_lines() -> None:
    with pytest.raises(TemplateBuildFailed, match="the script failed with exit code 3") as caught:
        await collected("seq 100; exit 3")
    assert caught.value.extra["log"].splitlines()[-1] == "100"
    assert len(caught.value.extra["log"].splitlines()) == 30


async def test_a_missing_program_is_told_with_the_way_out() -> None:
    with pytest.raises(TemplateBuildFailed, match="make setup"):
        await output(["no-such-program-anywhere"], what="nothing")


async def test_standard_input_is_empty() -> None:
    assert await output(["cat"], what="cat") == ""


async def test_a_cancelled_command_is_killed_with_its_children(tmp_path: Path) -> None:
    async def log(line: str) -> None:
        (tmp_path / line).touch()

    task = asyncio.create_task(run(["sh", "-c", "sleep 60 & echo $!; wait"], what="sleep", log=log))
    while not (files := list(tmp_path.iterdir())):
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0.1)
    assert not _alive(int(files[0].name))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
