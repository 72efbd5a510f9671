"""Noticing that processes or disk have run out. The kernel refuses by itself; this says so, once each time."""

from __future__ import annotations

import asyncio
import contextlib
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

PERIOD, _PERIOD_AT_LIMIT = 0.5, 0.1
_LAG = 0.5
"""Waking up so much too late means that we are starved."""
_DISK_FULL = 256 << 10
"""Less free than this counts as full."""
_RELIEVED = 0.9
_SLACK = 8


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
        loop = asyncio.get_running_loop()
        while True:
            before = loop.time()
            period = _PERIOD_AT_LIMIT if self._pids_told else PERIOD
            await asyncio.sleep(period)
            self._check_pids(starved=loop.time() - before - period > _LAG)
            if any(process.running for process in self._guest.manager.processes.values()):
                self.check_disk()

    def _check_pids(self, starved: bool) -> None:
        """Tell when the limit is reached, and end a brood that grows over it.

        gVisor's controller (2024) forgets one process with every fork that it refuses: who tries on and on gets over
        the limit. So we count ourselves; where the brood leaves us no time for that, with everything frozen.
        """
        limit = self._pids.limit
        used = self._pids.current()
        if not limit or used < limit:
            self._pids_told = self._pids_told and used >= limit * _RELIEVED
            return
        with tree.frozen() if starved or not self._pids_told else contextlib.nullcontext():
            count = sum(name.isdigit() for name in os.listdir("/proc")) - 1
            over = count > limit + max(_SLACK, limit // 8)
            if over or not self._pids_told:
                self._tell_pids(limit, max(used, count), over)

    def _tell_pids(self, limit: int, used: int, over: bool) -> None:
        owner, pid, count = busiest(self._guest)
        name = attribute(self._guest, pid)[1] if pid else None
        action, what = "refused", "new processes are refused"
        if over and owner is not None:
            action, what = "process_killed", f"{count} processes {name} killed"
            tree.kill_frozen(owner.id, owner.pid)
        message = f"process limit {limit} reached; {what}"
        tell(self._guest, Breach("pids", limit, used, pid, name, action, message), owner)
        self._pids_told = True

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


def busiest(guest: Guest) -> tuple[Process | None, int | None, int]:
    """The exec with the most processes, the newest of them, and how many."""
    sessions = {process.pid: id for id, process in guest.manager.processes.items() if process.running}
    members: dict[str, list[int]] = {}
    for pid, entry in tree.processes().items():
        owner = tree.mark_of(pid) or sessions.get(entry.session)
        if owner in guest.manager.processes:
            members.setdefault(owner, []).append(pid)
    most = max(members, key=lambda id: len(members[id]), default=None)
    if most is None:
        return None, None, 0
    return guest.manager.processes[most], max(members[most]), len(members[most])


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
