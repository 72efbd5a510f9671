"""The guest's state: who it is, what it was told at `prepare`, and its parts."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from hutch_guest import accounts
from hutch_guest.accounts import Account, UnknownUser
from hutch_guest.limits.monitor import Monitor
from hutch_guest.limits.usage import CpuMeter
from hutch_guest.processes.manager import Manager
from hutch_guest.processes.process import Process
from hutch_guest.processes.request import StartRequest

if TYPE_CHECKING:
    from hutch_guest.api.volumes import Pumped
    from hutch_guest.disk import Layers
    from hutch_guest.files.watch import Watchers
    from hutch_guest.processes.pipes import InputPipe


class Template:
    """The defaults of the image: `/.hutch/template.json`."""

    def __init__(self, path: str) -> None:
        raw: dict[str, Any] = {}
        try:
            with open(path, encoding="utf-8") as file:
                raw = json.load(file)
        except FileNotFoundError:
            pass
        self.name = str(raw.get("name") or "")
        self.user: str | None = raw.get("user")
        self.workdir: str | None = raw.get("workdir")
        self.env: dict[str, str] = dict(raw.get("env") or {})


class Guest:
    """Everything handlers work with."""

    def __init__(self, template: Template, spool_dir: str, system: bool, disk: Layers | None = None) -> None:
        self.template = template
        self.system = system
        """Whether the machine is ours: PID 1 of a sandbox, not a process in a test."""
        self.layers_of_disk = disk
        self.still: InputPipe | None = None
        """Open while everything else in the sandbox is made to stand still (`api/changes.py`)."""
        self.released = 0
        """How often it was told to go on."""
        self.volumes: dict[str, Pumped] = {}
        """Mounted ones, by their paths."""
        self.mounting = asyncio.Lock()
        self.started = time.monotonic()
        self.prepared = False
        self.sandbox_id = ""
        self.boot_id = ""
        """Of this machine's memory: the same after a pause, another in a fork."""
        self.access_token: str | None = None
        self.former_token: str | None = None
        """Still good until `former_until` (monotonic)."""
        self.former_until = 0.0
        self.env: dict[str, str] = {}
        self.secrets: dict[str, str] = {}
        """Variables that stand for secrets, and those that have programs trust the broker."""
        self.limits: dict[str, int] = {}
        self.default_user = template.user
        self.default_workdir = template.workdir
        self.manager = Manager(spool_dir)
        self.monitor = Monitor(self, os.path.join(spool_dir, "pids"))
        self.manager.on_disk_full = self.monitor.check_disk
        self.cpu = CpuMeter()
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self.manager.reap)

    def tokens(self) -> list[str]:
        """Any of them opens; without one the guest is open."""
        if self.access_token is None:
            return []
        if self.former_token is None or time.monotonic() >= self.former_until:
            return [self.access_token]
        return [self.access_token, self.former_token]

    @cached_property
    def watchers(self) -> Watchers:
        """Watches on directories that outlive a request."""
        from hutch_guest.files.watch import Watchers

        return Watchers()

    def account(self, name: str | None) -> Account:
        """The account to act as; the template's user when no name is given."""
        if name:
            return accounts.lookup(name)
        if self.default_user is not None:
            try:
                return accounts.lookup(self.default_user)
            except UnknownUser:
                return accounts.current()  # an image without the template's user: root, as in any container
        return accounts.current()

    def layers(self) -> list[Mapping[str, str]]:
        """The environment below a request's own."""
        identity = {"HUTCH_SANDBOX_ID": self.sandbox_id} if self.sandbox_id else {}
        if "E2B_SANDBOX" in self.env:  # made through E2B's API: its programs look for its names
            identity["E2B_SANDBOX_ID"] = "i" + self.sandbox_id.removeprefix("sbx_")
        return [self.template.env, identity, self.secrets, self.env]

    async def start(self, request: StartRequest) -> Process:
        """Start a process with the sandbox's defaults."""
        return await self.manager.start(request, self.account(request.user), self.layers(), self.default_workdir)

    def go_on(self) -> None:
        """Let the sandbox go on that stands still, or is about to."""
        self.released += 1
        if self.still is not None:
            self.still.close()
            self.still = None

    async def close(self) -> None:
        """End everything (a test's guest; PID 1 never ends)."""
        self.monitor.stop()
        await self.manager.close()
