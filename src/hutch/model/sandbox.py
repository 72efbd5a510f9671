"""The sandbox, as the API shows it."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Literal

from pydantic import Field

from hutch.model.budget import Usage
from hutch.model.common import FALLBACK, LimitBreach, Model, Resources, Start
from hutch.model.identity import Identity
from hutch.model.network import NetworkPolicy
from hutch.model.snapshot import SnapshotKind
from hutch.model.task import Task
from hutch.model.volume import VolumeMount


class SandboxState(StrEnum):
    """`paused`: memory and disk are saved; `hibernated`: only the disk."""

    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    HIBERNATED = "hibernated"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        return self in (SandboxState.STOPPED, SandboxState.FAILED)


class Resumed(Model):
    """How a sandbox came back, from a pause or by a rollback."""

    memory: bool = Field(description="Whether its memory and processes survived; without them it was booted anew.")
    ms: float = Field(description="How long that took, in milliseconds.")
    at: datetime


class Pause(Model):
    """`POST /v1/sandboxes/{id}/pause`."""

    mode: SnapshotKind = Field(
        SnapshotKind.FULL,
        description="`full`: with memory and processes; `disk`: only its files. It is hibernated then.",
    )
    fallback: Literal["disk"] | None = Field(None, description=FALLBACK)


class Resume(Model):
    """`POST /v1/sandboxes/{id}/resume`."""

    fallback: Literal["disk"] | None = Field(None, description=FALLBACK)


class Sandbox(Model):
    """One disposable computer."""

    id: str
    state: SandboxState
    template: str
    resources: Resources
    network: NetworkPolicy
    secrets: list[str] = Field([], description="Names of the secrets that it may use.")
    labels: dict[str, str] = {}
    identity: Identity = Field(Identity(), description="What its identity token says beside what Hutch knows of it.")
    created_by: str | None = Field(None, description="The API key that made it; unset: Hutch by itself.")
    forked_from: str | None = Field(None, description="The sandbox that it went on from.")
    volumes: list[VolumeMount] = []
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    start: Start | None = Field(
        None,
        description="How it came to run: claimed from the warm pool (`warm`), thawed from a snapshot (`thaw`), or "
        "booted (`boot`).",
    )
    start_reason: str | None = Field(None, description="Why it was booted and not thawed.")
    deadline: datetime = Field(description="When it is destroyed at the latest: the end of its `lifetime`.")
    idle_timeout: float | None = Field(None, description="Seconds without activity after which it is paused.")
    paused_at: datetime | None = Field(None, description="Since when it is paused or hibernated.")
    snapshot: str | None = Field(None, description="The snapshot that a paused or hibernated sandbox stands on.")
    resumed: Resumed | None = Field(None, description="Its last resume or rollback.")
    fallback: Literal["disk"] | None = Field(None, description="What it falls back to where memory cannot be thawed.")
    reason: str | None = Field(None, description="Why it ended or failed, for a person.")
    breaches: list[LimitBreach] = []
    usage: Usage = Usage()
    task: Task | None = Field(None, description="The task it was created for.")


class UpdateSandbox(Model):
    """`PATCH /v1/sandboxes/{id}`: what is left out stays as it is."""

    idle_timeout: float | None = Field(
        None, gt=0, le=365 * 86400, description="Seconds without activity after which it is paused; null: never."
    )
