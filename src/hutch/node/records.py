"""What the node has written down about each sandbox, so that a new daemon can adopt it or clean it up."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Literal, TypeVar

import structlog
from pydantic import ValidationError

from hutch.model import LimitBreach, LlmGrant, LlmUsage, Model, Resources, SnapshotRequest, Start, is_id
from hutch.model.grant import NodePolicy, SecretGrant
from hutch.node.home import write_atomic

log = structlog.get_logger("hutch.node")
T = TypeVar("T")

Step = Literal["booting", "running", "pausing", "paused", "resuming", "ending", "dead"]

MAX_BREACHES = 100
"""A sandbox that hits its limits all day must not grow its record without end: the newest are kept."""


_FROZEN = "frozen-"
_LLM, _SECRETS = ".json", ".secrets"


class Figures(Model):
    """What a sandbox used, as last seen."""

    cpu_seconds: float = 0.0
    memory_bytes: int = 0
    memory_peak_bytes: int = 0
    disk_bytes: int = 0


class SandboxRecord(Model):
    """One sandbox. Written BEFORE the step it names is taken.

    booting -> running -> pausing -> paused -> resuming -> running; a rollback is pausing and resuming. Ending and dead
    may follow at any moment. A dead one is a small tombstone.
    """

    id: str
    step: Step
    template: str
    resources: Resources
    network: NodePolicy
    deadline: float
    guest_token: str
    started_at: datetime
    next_token: str = ""
    """Running: what the guest is just being told instead of `guest_token`."""
    still: bool = False
    """Made to stand still while its disk is packed; until its guest has said that it goes on, or it is paused."""
    machine_boot: str
    """The host kernel's boot id: a sandbox of another boot cannot run any more."""
    image: str = ""
    """Hash of its root file system's image."""
    org: str | None = None
    member: str | None = None
    """The member of the warm pool that it has taken over: nothing on the host is renamed then."""
    boot_id: str = ""
    slot: int | None = None
    address: str = ""
    user: str = ""
    workdir: str = ""
    boot_ms: float = 0.0
    start: Start | None = None
    start_reason: str | None = None
    """Why it was booted and not thawed."""
    resumed_ms: float = 0.0
    resumed_memory: bool | None = None
    """Whether its memory survived the last resume."""
    since: float | None = None
    """Unix time of its last freeze for a pause, or of the resume that followed it."""
    hibernated: bool = False
    """Paused: what it stands on is a disk only."""
    taking: SnapshotRequest | None = None
    """The snapshot that is being made: to pause it, or while it stays what it is."""
    snapshot: str | None = None
    """Paused: what it stands on. Resuming: what is being thawed."""
    fallback: str | None = None
    """Resuming: what it stands on again when that fails."""
    parent: str | None = None
    """The snapshot that it came from or that was taken of it last."""
    rolled_back: str | None = None
    """The safety snapshot of the last rollback that has come to its end."""
    cpu_before: float = 0.0
    """CPU seconds that it had used when it was thawed last: the host counts from zero again."""
    figures: Figures = Figures()
    llm: LlmUsage = LlmUsage()
    breaches: list[LimitBreach] = []
    death: str | None = None
    ended_at: float | None = None

    def but(self, **changes: object) -> SandboxRecord:
        """The record with these changes."""
        return self.model_copy(update=changes)

    @property
    def hidden(self) -> bool:
        """Nobody's: it waits in the warm pool, or is a template that is being frozen. A record of one is not taken
        over by the next daemon, and so all of it is removed."""
        return is_id(self.id, "wrm")

    @property
    def runtime_id(self) -> str:
        """Under which the runtime, its control group and its directory know it."""
        return self.member or self.id

    @property
    def unsettled(self) -> bool:
        """Running: something of a snapshot is still to be done, because the guest did not answer, or we were killed."""
        return bool(self.taking is not None or self.still or self.next_token)

    @property
    def stands_on(self) -> tuple[str, ...]:
        """Snapshots without which it would be lost."""
        if self.step not in ("pausing", "paused", "resuming"):
            return ()
        taking = self.taking.snapshot if self.taking is not None else None
        return tuple(id for id in (self.snapshot, self.fallback, taking) if id is not None)


class RecordStore:
    """`sandboxes/<id>/record.json`, and the LLM grants in memory beside it.

    No fsync but for paused ones: the records serve a daemon that was killed, on a machine that lives on. After a power
    cut nothing runs, and a torn record is swept like any leftover; a paused sandbox is to be found again.
    """

    def __init__(self, sandboxes: Path, grants: Path) -> None:
        self._sandboxes = sandboxes
        self._grants = grants
        # One thread, so that two writes of one record land in the order in which they were asked for.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="records")

    def directory(self, id: str) -> Path:
        """All that the host keeps of this sandbox."""
        return self._sandboxes / id

    def runtime_directory(self, runtime_id: str) -> Path:
        """The runtime's part of it."""
        return self._sandboxes / runtime_id / "runtime"

    def frozen_directory(self, id: str, snapshot: str) -> Path:
        """Where the runtime makes a snapshot of it, until the store takes it over."""
        return self._sandboxes / id / f"{_FROZEN}{snapshot}"

    async def save(self, record: SandboxRecord) -> None:
        """Write it down; with the first writing the sandbox's directory is made."""
        directory = self.directory(record.id)
        data = record.model_dump_json().encode()

        def write() -> None:
            directory.mkdir(mode=0o700, exist_ok=True)
            write_atomic(directory / "record.json", data, durable=record.step == "paused")

        await self._run(write)

    async def load(self) -> tuple[list[SandboxRecord], list[str]]:
        """All readable records, and the names of directories without one."""
        return await self._run(self._load)

    async def strip(self, id: str) -> None:
        """Remove all but the record; no error when there is nothing."""

        def strip() -> None:
            for entry in self.directory(id).glob("*"):
                if entry.name != "record.json":
                    _remove(entry)

        await self._run(strip)

    async def sweep_frozen(self, id: str) -> None:
        """Remove what was frozen, or was about to be, and that no store has taken over."""

        def sweep() -> None:
            for path in self.directory(id).glob(f"{_FROZEN}*"):
                _remove(path)

        await self._run(sweep)

    async def remove(self, id: str) -> None:
        """Remove everything of this sandbox; no error when there is nothing."""
        await self._run(lambda: _remove(self.directory(id)))

    async def save_grant(self, id: str, grant: LlmGrant | None) -> None:
        """Keep the grant for the next daemon; None forgets it."""
        await self._save_grant(self._grants / f"{id}{_LLM}", grant)

    async def save_secrets(self, id: str, grant: SecretGrant | None) -> None:
        """The same for secrets."""
        await self._save_grant(self._grants / f"{id}{_SECRETS}", grant)

    async def load_secrets(self, id: str) -> SecretGrant | None:
        """Those that were kept."""
        path = self._grants / f"{id}{_SECRETS}"
        try:
            return SecretGrant.model_validate_json(await self._run(path.read_bytes))
        except (OSError, ValidationError):
            return None

    async def load_grant(self, id: str) -> LlmGrant | None:
        """The grant that an earlier daemon kept."""
        path = self._grants / f"{id}{_LLM}"
        try:
            return LlmGrant.model_validate_json(await self._run(path.read_bytes))
        except (OSError, ValidationError):
            return None

    async def grant_ids(self) -> list[str]:
        """Ids of all sandboxes with a kept grant."""
        kept = (f"*{suffix}" for suffix in (_LLM, _SECRETS))
        return await self._run(lambda: sorted({path.stem for each in kept for path in self._grants.glob(each)}))

    async def _save_grant(self, path: Path, grant: Model | None) -> None:
        if grant is None:
            await self._run(lambda: path.unlink(missing_ok=True))
            return
        data = grant.model_dump_json().encode()
        await self._run(lambda: write_atomic(path, data))

    def close(self) -> None:
        """After the last write."""
        self._thread.shutdown(wait=True)

    def _load(self) -> tuple[list[SandboxRecord], list[str]]:
        records, torn = [], []
        for directory in sorted(self._sandboxes.iterdir()):
            if not is_id(directory.name, "sbx"):  # such as what a sandbox has taken over from the warm pool
                torn.append(directory.name)
                continue
            try:
                record = SandboxRecord.model_validate_json((directory / "record.json").read_bytes())
            except (OSError, ValidationError) as error:
                log.warning("record unreadable", directory=directory.name, error=str(error)[:300])
                torn.append(directory.name)
                continue
            if record.id == directory.name:
                records.append(record)
            else:
                torn.append(directory.name)
        return records, torn

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
