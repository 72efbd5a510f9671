"""The node's snapshots: what the store keeps, and which sandboxes stand on it."""

from __future__ import annotations

import asyncio
import os
import platform
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from hutch.errors import AlreadyExists, Conflict, SnapshotNotFound
from hutch.model import RuntimeManifest, SnapshotKind, SnapshotReason, SnapshotRecord, SnapshotRequest, SnapshotUsage
from hutch.model.lineage import ancestors
from hutch.node.allowance import Allowance
from hutch.node.disk import archive
from hutch.node.entry import Entry, Registry
from hutch.node.notes import ThawNote, read_note, write_note
from hutch.node.records import RecordStore, SandboxRecord
from hutch.runtime.manifest import read_manifest
from hutch.snapshots import Origin, Retention, SnapshotStore
from hutch.snapshots.retention import expired, superseded

_OF_THE_SANDBOX = (SnapshotReason.PAUSE, SnapshotReason.SAFETY, SnapshotReason.CHECKPOINT)
"""Reasons for snapshots that go with the sandbox, at once."""


class Snapshots:
    """One a node. The store knows nothing of sandboxes; this does. `most_bytes`: for each organisation's."""

    def __init__(
        self, store: SnapshotStore, registry: Registry, records: RecordStore, most_bytes: int | None = None
    ) -> None:
        self._store = store
        self.allowance = Allowance(store, most_bytes)
        self._registry = registry
        self._records = records
        self._claimed: set[str] = set()

    # --- looking ---------------------------------------------------------------------------------------------------

    async def get(self, id: str) -> SnapshotRecord:
        """Raises `SnapshotNotFound`."""
        return await self._store.get(id)

    async def find(self, id: str) -> SnapshotRecord | None:
        """None when it is not there."""
        try:
            return await self._store.get(id)
        except SnapshotNotFound:
            return None

    async def records(self, sandbox: str | None = None, org: str | None = None) -> list[SnapshotRecord]:
        """Oldest first."""
        return await self._store.records(sandbox, org)

    async def images(self) -> set[str]:
        """Hashes of the images that snapshots stand on."""
        return {record.runtime.image for record in await self._store.records() if record.runtime.image is not None}

    @property
    def lost(self) -> list[str]:
        """What a power cut has taken."""
        return self._store.lost

    async def damaged(self) -> list[str]:
        """See `SnapshotStore.damaged`."""
        return await self._store.damaged()

    @asynccontextmanager
    async def opened(self, id: str) -> AsyncIterator[tuple[Path, ThawNote]]:
        """The files of a snapshot, which stay while this lasts. Raises `SnapshotNotFound`, `SnapshotCorrupt`,
        `DiskFull`."""
        async with self._store.materialise(id) as directory:
            yield directory, await asyncio.to_thread(read_note, directory)

    # --- taking and giving ---------------------------------------------------------------------------------------

    @contextmanager
    def claim(self, id: str) -> Iterator[None]:
        """Only one snapshot of this id can be in the making. Raises `AlreadyExists`."""
        if id in self._claimed:
            raise _taken(id)
        self._claimed.add(id)
        try:
            yield
        finally:
            self._claimed.discard(id)

    async def check_free(self, id: str) -> None:
        """Raise `AlreadyExists` when there is a snapshot of this id."""
        if await self.find(id) is not None:
            raise _taken(id)

    async def admit(
        self, sandbox: SandboxRecord, frozen: Path, request: SnapshotRequest, stopped_ms: float
    ) -> SnapshotRecord:
        """Take a frozen directory of the sandbox in. Raises `AlreadyExists`, `DiskFull`: then it is where it was."""
        note = ThawNote(
            guest_token=sandbox.guest_token,
            next_token=sandbox.next_token,
            boot_id=sandbox.boot_id,
            user=sandbox.user,
            workdir=sandbox.workdir,
        )

        def prepare() -> _Contents:
            write_note(frozen, note)
            return _contents(frozen, request.kind, sandbox.image or None)

        contents = await asyncio.to_thread(prepare)
        record = SnapshotRecord(
            id=request.snapshot,
            sandbox_id=sandbox.id,
            org=sandbox.org,
            parent=sandbox.parent,
            kind=request.kind,
            disk=contents.disk,
            reason=request.reason,
            name=request.name,
            turn=request.turn,
            created_at=contents.created_at,
            created_by=request.created_by,
            runtime=contents.runtime,
            template=sandbox.template,
            resources=sandbox.resources,
            stopped_ms=stopped_ms,
            written_bytes=sandbox.figures.disk_bytes,
        )
        return await self._store.admit(frozen, record)

    async def copy(self, source: str, sandbox: SandboxRecord, request: SnapshotRequest) -> SnapshotRecord:
        """Another snapshot of the same files, which never change and so are shared. Raises `SnapshotNotFound`,
        `SnapshotCorrupt`, `AlreadyExists`, `DiskFull`."""
        original = await self.get(source)
        record = original.model_copy(
            update={
                "id": request.snapshot,
                "sandbox_id": sandbox.id,
                "org": sandbox.org,
                "parent": sandbox.parent,
                "reason": request.reason,
                "name": request.name,
                "turn": request.turn,
                "created_at": datetime.now(UTC),
                "created_by": request.created_by,
                "stopped_ms": 0.0,
            }
        )
        async with self._store.materialise(source) as directory, self._store.stage() as stage:

            def link() -> None:
                for file in directory.iterdir():
                    os.link(file, stage / file.name)

            await asyncio.to_thread(link)
            return await self._store.admit(stage, record)

    async def wait_durable(self, id: str) -> None:
        """Until the snapshot survives a power cut. Raises `SnapshotNotFound`, `DiskFull`, `OSError`."""
        await self._store.wait_durable(id)

    def export(self, id: str) -> AsyncGenerator[bytes, None]:
        """See `SnapshotStore.export`."""
        return self._store.export(id)

    async def take_in(
        self,
        archive: AsyncIterator[bytes],
        origin: Origin,
        max_bytes: int,
        check: Callable[[SnapshotRecord], None],
        check_room: Callable[[], None],
    ) -> SnapshotRecord:
        """See `SnapshotStore.import_archive`; it survives a power cut when this returns."""
        record = await self._store.import_archive(archive, origin, max_bytes, check, check_room)
        await self.wait_durable(record.id)
        return record

    async def usage(self, org: str | None) -> SnapshotUsage:
        """What an organisation keeps here, and may."""
        most = self.allowance.most if org is not None else None
        return (await self._store.usage(org)).model_copy(update={"limit_bytes": most})

    async def delete(self, id: str) -> None:
        """Take one away. Raises `SnapshotNotFound`, `Conflict` while a paused sandbox stands on it."""
        if id in self.in_use():
            raise Conflict(
                f"a paused sandbox stands on {id}", hint="Resume the sandbox or delete it first.", snapshot=id
            )
        await self._remove(id)

    async def drop_of(self, sandbox: str) -> None:
        """Take away what goes with a sandbox that has ended: its pauses, checkpoints and safety copies, if nobody
        named them."""
        for record in await self._store.records(sandbox, None):
            if record.reason in _OF_THE_SANDBOX and record.name is None:
                with suppress(SnapshotNotFound):
                    await self._remove(record.id)

    async def tidy(self, rule: Retention, now: datetime) -> list[str]:
        """Take away what the rule does not keep; their ids. What a living sandbox came from stays for it to go back
        to."""
        records = {record.id: record for record in await self._store.records()}
        going = expired(records.values(), rule, now, self.in_use(), self._lives)
        origins = self._origins(records) if going else set()
        gone = []
        for id in going:
            if id not in origins and id not in self.in_use():  # which changes while others are removed
                with suppress(SnapshotNotFound):
                    await self._remove(id)
                    gone.append(id)
        for org in {record.org for record in records.values() if record.org is not None}:
            gone += await self._make_room(org)
        return gone

    async def _make_room(self, org: str) -> list[str]:
        """Of an organisation that has had its share, take away what nobody asked for, the oldest first, until there is
        room; their ids."""
        gone: list[str] = []
        if not await self.allowance.is_used_up(org):
            return gone
        records = {record.id: record for record in await self._store.records(None, org)}
        origins = self._origins(records)
        for id in superseded(records.values()):
            if id not in origins and id not in self.in_use():
                with suppress(SnapshotNotFound):
                    await self._remove(id)
                    gone.append(id)
                if not await self.allowance.is_used_up(org):
                    break
        return gone

    def in_use(self) -> frozenset[str]:
        """What paused sandboxes, and those that are just being brought back, stand on."""
        return frozenset(id for entry in self._registry for id in entry.record.stands_on)

    def urgent(self) -> AbstractContextManager[None]:
        """While this lasts the store's background work stands back."""
        return self._store.urgent()

    async def close(self) -> None:
        """Let the store go."""
        await self._store.close()

    def _lives(self, sandbox: str) -> bool:
        entry = self._registry.find(sandbox)
        return entry is not None and entry.record.step != "dead"

    def _origins(self, records: Mapping[str, SnapshotRecord]) -> set[str]:
        """What living sandboxes, also those that are just being made, have come from."""
        found: set[str] = set()
        for entry in self._registry:
            parent = records.get(entry.record.parent or "")
            if parent is not None and self._lives(entry.id):
                line = (parent, *ancestors(records, parent.id))
                found.update(islice((each.id for each in line if each.sandbox_id != entry.id), 1))
        return found

    async def _remove(self, id: str) -> None:
        """Also from the lineage of living sandboxes: the next snapshot has the parent's parent. Raises
        `SnapshotNotFound`."""
        parent = (await self._store.get(id)).parent  # as it is now: the one that was taken first may have gone
        await self._store.delete(id)
        for entry in self._registry:
            if entry.record.parent == id:
                await self._reparent(entry, parent)

    async def _reparent(self, entry: Entry, parent: str | None) -> None:
        entry.record = entry.record.but(parent=parent)
        if entry.record.step not in ("ending", "dead"):
            await self._records.save(entry.record)


@dataclass(frozen=True)
class _Contents:
    """What the files of a frozen directory say."""

    created_at: datetime
    runtime: RuntimeManifest
    disk: bool


def _contents(frozen: Path, kind: SnapshotKind, image: str | None) -> _Contents:
    """Raises `SnapshotCorrupt`."""
    disk = archive.is_archive(frozen)
    if kind is SnapshotKind.DISK:
        # Booted, not thawed: by whatever runtime there is then.
        runtime = RuntimeManifest(runtime="any", version="any", arch=platform.machine(), image=image)
        return _Contents(archive.read_manifest(frozen).created_at, runtime, disk)
    manifest = read_manifest(frozen)
    runtime = RuntimeManifest(
        runtime=manifest.origin.runtime,
        version=manifest.origin.version,
        arch=platform.machine(),
        cpu_features=list(manifest.cpu.flags),
        image=image,
    )
    return _Contents(manifest.created_at, runtime, disk)


def _taken(id: str) -> AlreadyExists:
    return AlreadyExists(f"snapshot {id} is there already", snapshot=id)
