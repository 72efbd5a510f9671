"""The snapshot: an immutable point of a sandbox."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Literal, Self

from pydantic import ConfigDict, Field, model_validator

from hutch.model.common import FALLBACK, Model, Resources
from hutch.model.identity import Identity
from hutch.model.secret import MAX_SECRETS, SecretName


class SnapshotKind(StrEnum):
    FULL = "full"
    """Memory, processes and disk."""
    DISK = "disk"


class SnapshotReason(StrEnum):
    """Why it was taken. Retention goes by it."""

    MANUAL = "manual"
    PAUSE = "pause"
    SAFETY = "safety"
    """Taken by a rollback, of what it is about to replace."""
    CHECKPOINT = "checkpoint"
    """Taken by a task, once a turn."""
    TEMPLATE = "template"
    FORK = "fork"


class RuntimeManifest(Model):
    """What a thaw needs to be the same as it was at the freeze."""

    runtime: str = Field(description="gvisor or qemu.")
    version: str = Field(description="The runtime's own version.")
    arch: str = Field("x86_64", max_length=32)
    cpu_features: list[str] = Field([], max_length=1024, description="Flags of the CPU that the guest has seen.")
    image: str | None = Field(None, description="Content hash of the root image.")


class SnapshotRecord(Model):
    """One snapshot. All but the sizes is given by who takes it."""

    id: str = Field(pattern=r"^snp_[a-z2-7]{22}$")
    sandbox_id: str = Field(max_length=64)
    org: str | None = Field(
        None, max_length=64, description="Owner. Unset: the host's own (templates), whose chunks all may share."
    )
    parent: str | None = Field(
        None, max_length=64, description="The snapshot that the sandbox came from, or took last."
    )
    kind: SnapshotKind = SnapshotKind.FULL
    reason: SnapshotReason = SnapshotReason.MANUAL
    name: str | None = Field(None, max_length=256, description="The caller's tag; a named snapshot is never expired.")
    turn: int | None = Field(None, ge=0, description="The task's turn, for checkpoints.")
    created_at: datetime
    created_by: str | None = Field(None, max_length=256, description="Key or process that asked for it.")
    runtime: RuntimeManifest
    template: str | None = Field(None, max_length=256, description="The sandbox's template.")
    resources: Resources | None = Field(
        None, description="The sandbox's; whoever is thawed from it has the same disk and process limit."
    )
    stopped_ms: float = Field(0.0, ge=0, description="How long nothing ran inside while it was taken.")
    disk: bool = Field(False, description="Whether it has the disk apart: always when it is only that.")
    logical_bytes: int = Field(0, ge=0, description="Sum of the sizes of its files.")
    stored_bytes: int | None = Field(
        None, ge=0, description="Compressed bytes that it added to the store; unset until it is in there."
    )
    written_bytes: int | None = Field(
        None, ge=0, description="Bytes of disk that its written files took on the host; unset where nobody looked."
    )


class Snapshot(Model):
    """A snapshot, as the API shows it."""

    id: str
    sandbox_id: str = Field(description="The sandbox that it was taken of.")
    parent: str | None = Field(None, description="The snapshot that its sandbox came from, or took last before.")
    kind: SnapshotKind = SnapshotKind.FULL
    reason: SnapshotReason
    name: str | None = None
    turn: int | None = Field(None, description="The task's turn, for checkpoints.")
    template: str | None = None
    created_at: datetime
    created_by: str | None = Field(None, description="The API key that asked for it; unset: Hutch by itself.")
    disk: bool = Field(False, description="Whether it has the disk apart from memory: always when it is only that.")
    bytes: int = Field(0, description="Sum of the sizes of its files.")
    stored_bytes: int | None = Field(
        None, description="Compressed bytes that it added to the store; unset until it is in there."
    )
    stopped_ms: float = Field(0.0, description="How long nothing ran inside while it was taken, in milliseconds.")


class TimelineEntry(Snapshot):
    """A snapshot in a tree."""

    depth: int = Field(description="How many of its ancestors are in the list.")


class CreateSnapshot(Model):
    """`POST /v1/sandboxes/{id}/snapshots`."""

    name: str | None = Field(
        None, min_length=1, max_length=256, description="Your tag; a named snapshot is kept until you delete it."
    )
    mode: SnapshotKind = Field(
        SnapshotKind.FULL,
        description="`disk`: only what it has written. What is made of it is booted; it itself goes on as it is.",
    )
    fallback: Literal["disk"] | None = Field(
        None,
        description="`disk`: with its disk apart beside memory, to boot from where memory does not fit (another "
        "version of the runtime, another CPU). The sandbox stands still for longer.",
    )


class Rollback(Model):
    """`POST /v1/sandboxes/{id}/rollback`, `POST /v1/tasks/{id}/rollback`: one of the two."""

    snapshot: str | None = Field(None, max_length=64, description="What to go back to: one of the sandbox's timeline.")
    turn: int | None = Field(None, ge=0, description="Instead: the turn of its task whose checkpoint to go back to.")
    fallback: Literal["disk"] | None = Field(None, description=FALLBACK)

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.snapshot is None) == (self.turn is None):
            raise ValueError("give `snapshot` or `turn`")
        return self


class Fork(Model):
    """`POST /v1/sandboxes/{id}/fork`."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    count: int = Field(1, ge=1, le=64, description="How many new sandboxes.")
    from_snapshot: str | None = Field(
        None,
        validation_alias="from",
        serialization_alias="from",
        max_length=64,
        description="One of the sandbox's timeline; unset: as it is now, which takes a snapshot.",
    )
    fallback: Literal["disk"] | None = Field(None, description=FALLBACK)
    identity: Identity = Field(
        Identity(), description="What their identity tokens say. Nothing of it is taken over from the sandbox."
    )
    secrets: list[SecretName] = Field(
        [], max_length=MAX_SECRETS, description="Secrets that they may use. Forks have none of their parent's."
    )


class SnapshotUsage(Model):
    """What one organisation keeps in the store of one node."""

    snapshots: int = Field(description="How many.")
    logical_bytes: int = Field(description="Sum of the sizes of their files.")
    stored_bytes: int = Field(description="Compressed bytes stored for them; what templates share is not in it.")
    pending_bytes: int = Field(0, description="Sizes of those that were taken just now and are not compressed yet.")
    limit_bytes: int | None = Field(
        None, description="Most that `stored_bytes` and `pending_bytes` may be together; unset: no limit."
    )
