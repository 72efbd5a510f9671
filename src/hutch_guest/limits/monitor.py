"""Noticing that processes or disk have run out. The kernel refuses by itself; this says so, once each time."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from hutch_guest.limits import usage
from hutch_guest.limits.breach import Breach, attribute, describe_bytes, tell
from hutch_guest.limits.pids import PidsGroup
from hutch_guest.log import log
from hutch_guest.processes import tree

if TYPE_CHECKING:
    from hutch_guest.guest import Guest
    from hutch_guest.processes.process import Process

PERIOD = 0.5
_DISK_FULL = 256 << 10
"""Less free than this counts as full."""
_RELIEVED = 0.9


class Monitor:
    """Watches the limits while anything runs."""

    def __init__(self, guest: Guest, cgroup_dir: str) -> None:
        self._guest = guest
        self._pids = PidsGroup(cgroup_dir)
        self._pids_told = False
        self._disk_told = False
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Put the limits of `prepare` into force. May be called again with others."""
        pids = self._guest.limits.get("pids", 0)
        if pids and self._guest.system:
            await self._limit_pids(pids)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._watch())

    def stop(self) -> None:
        """Watch no more."""
        if self._task is not None:
            self._task.cancel()

    async def _limit_pids(self, count: int) -> None:
        first = not self._pids.limit
        try:
            if not self._pids.create():
                log("no pids controller: the number of processes is limited by the host alone")
                return
            self._pids.set_limit(count)
            if first:
                await self._guest.manager.spawner.run(self._pids.join)
        except OSError as error:
            log(f"cannot limit the number of processes: {error}")

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(PERIOD)
            if any(process.running for process in self._guest.manager.processes.values()):
                self._check_pids()
                self.check_disk()

    def _check_pids(self) -> None:
        limit = self._pids.limit
        if not limit:
            return
        used = self._pids.current()
        if used >= limit and not self._pids_told:
            owner, pid = busiest(self._guest)
            name = attribute(self._guest, pid)[1] if pid else None
            message = f"process limit {limit} reached; new processes are refused"
            tell(self._guest, Breach("pids", limit, used, pid, name, "refused", message), owner)
            self._pids_told = True
        elif used < limit * _RELIEVED:
            self._pids_told = False

    def check_disk(self, culprit: Process | None = None) -> None:
        """Say so when the disk is full. `culprit`: whose output could not be stored."""
        limit = self._guest.limits.get("disk_bytes", 0)
        if not limit:
            return
        disk = usage.disk(limit)
        if disk["total"] - disk["used"] < _DISK_FULL and not self._disk_told:
            pid = culprit.pid if culprit else biggest_writer()
            owner, name = attribute(self._guest, pid) if pid else (None, None)
            message = f"disk limit {describe_bytes(limit)} reached; writes are refused"
            breach = Breach("disk", limit, disk["used"], pid, name, "refused", message)
            tell(self._guest, breach, culprit or owner)
            self._disk_told = True
        elif disk["used"] < disk["total"] * _RELIEVED:
            self._disk_told = False


def busiest(guest: Guest) -> tuple[Process | None, int | None]:
    """The exec with the most processes, and the newest of those."""
    table = tree.processes()
    best: tuple[int, Process | None, int | None] = (0, None, None)
    for process in guest.manager.processes.values():
        if process.running:
            members = tree.members(process.id, process.pid, table)
            if len(members) > best[0]:
                best = (len(members), process, max(members))
    return best[1], best[2]


def biggest_writer() -> int | None:
    """The process that has written most."""
    written: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and name != "1":
            try:
                with open(f"/proc/{name}/io", "rb") as file:
                    fields = dict(line.split(b": ") for line in file.read().splitlines())
                written[int(name)] = int(fields.get(b"wchar", 0))
            except (OSError, ValueError):
                continue
    return max(written, key=lambda pid: written[pid], default=None)
