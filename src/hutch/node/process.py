"""Waiting for a host process that is not our child."""

from __future__ import annotations

import asyncio
import os


async def process_end(pid: int) -> None:
    """Return when the process has ended, at once and without polling (pidfd)."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def boot_id() -> str:
    """Changes with every start of this machine."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def memory_available() -> int:
    """Bytes the host can still give without swapping."""
    with open("/proc/meminfo") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    return 0
