"""The sandbox, as the API shows it."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import Field

from hutch.model.budget import Usage
from hutch.model.common import LimitBreach, Model, NetworkPolicy, Resources, Start
from hutch.model.task import Task


class SandboxState(StrEnum):
    """`hibernated` (only the disk is saved) is for a later version."""

    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        return self in (SandboxState.STOPPED, SandboxState.FAILED)


class Sandbox(Model):
    """One disposable computer."""

    id: str
    state: SandboxState
    template: str
    resources: Resources
    network: NetworkPolicy
    labels: dict[str, str] = {}
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
    paused_at: datetime | None = Field(None, description="Since when it is paused.")
    snapshot: str | None = Field(None, description="The snapshot that a paused sandbox stands on.")
    reason: str | None = Field(None, description="Why it ended or failed, for a person.")
    breaches: list[LimitBreach] = []
    usage: Usage = Usage()
    task: Task | None = Field(None, description="The task it was created for.")
