"""What the server and a node say to each other."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field, SecretStr, field_serializer

from hutch.model.budget import LlmUsage
from hutch.model.common import LimitBreach, Model, Resources, Start
from hutch.model.grant import NodePolicy, SecretGrant
from hutch.model.llm import PROVIDER_NAME
from hutch.model.made import BuildBoot
from hutch.model.snapshot import SnapshotKind, SnapshotReason

SNAPSHOT_ID = r"^snp_[a-z2-7]{22}$"

JournalKind = Literal[
    "sandbox_running",
    "sandbox_dead",
    "sandbox_paused",
    "sandbox_resumed",
    "sandbox_rolled_back",
    "limit",
    "egress_refused",
    "activity",
    "llm_usage",
    "llm_auth_failed",
    "llm_budget_exceeded",
    "llm_org_usage",
]


class LlmGrant(Model):
    """Permission of one sandbox to call one provider with a key it never sees."""

    provider: str = Field(pattern=PROVIDER_NAME, description="By the name that the gateway knows it by.")
    org: str | None = Field(None, max_length=64, description="Who pays: its budgets hold beside the task's.")
    key: SecretStr
    placeholder: str = Field(description="What the guest sends instead of the key.")
    provider_tools: bool = Field(True, description="The provider may itself reach the network for it.")
    max_usd: float | None = None
    max_tokens: int | None = None

    @field_serializer("key", when_used="json")
    def _key(self, key: SecretStr) -> str:
        return key.get_secret_value()  # goes over the node's Unix socket, and to a tmpfs; never to a log


class BootRequest(Model):
    """`PUT /sandboxes/{id}` of the node: idempotent by id."""

    template: str
    resources: Resources
    network: NodePolicy
    deadline: float = Field(description="Unix time at which the node destroys it by itself.")
    env: dict[str, str] = {}
    llm: LlmGrant | None = None
    secrets: SecretGrant | None = None
    org: str | None = Field(None, max_length=64, description="Owner of the snapshots that will be taken of it.")
    from_snapshot: str | None = Field(
        None,
        pattern=SNAPSHOT_ID,
        description="Thaw this instead of booting: a fork. Template, disk and process limit are then the snapshot's, "
        "whatever stands here.",
    )
    fallback: bool = Field(False, description="Boot it from the snapshot's disk where memory does not fit this node.")
    build: BuildBoot | None = Field(None, description="It is for the steps of a template's build.")


class PauseRequest(Model):
    """`POST /sandboxes/{id}/pause` of the node."""

    snapshot: str = Field(pattern=SNAPSHOT_ID, description="Id of the snapshot that it will stand on.")
    kind: SnapshotKind = Field(SnapshotKind.FULL, description="`disk`: only what it has written is saved.")
    disk: bool = Field(False, description="Save the disk apart as well, to fall back to.")
    created_by: str | None = Field(None, max_length=256, description="Who asked for it.")


class SnapshotRequest(Model):
    """`POST /sandboxes/{id}/snapshots` of the node."""

    snapshot: str = Field(pattern=SNAPSHOT_ID, description="Id that it will have. The same id twice: the same one.")
    name: str | None = Field(None, max_length=256, description="The caller's tag.")
    created_by: str | None = Field(None, max_length=256, description="Who asked for it.")
    reason: SnapshotReason = SnapshotReason.MANUAL
    turn: int | None = Field(None, ge=0, description="The task's turn, for checkpoints.")
    held: bool = Field(False, description="Only while its calls to model providers are held; they are let go after.")
    kind: SnapshotKind = SnapshotKind.FULL
    disk: bool = Field(False, description="With the disk apart as well, to fall back to.")


class ResumeRequest(Model):
    """`POST /sandboxes/{id}/resume` of the node."""

    fallback: bool = Field(False, description="Boot it from the disk where memory does not fit this node.")


class HoldRequest(Model):
    """`POST /sandboxes/{id}/llm/hold` of the node."""

    within: float = Field(ge=0, le=300, description="Seconds to wait for a moment without a call under way.")
    seconds: float = Field(gt=0, le=60, description="How long calls are held at most.")


class Held(Model):
    """Its answer."""

    held: bool = Field(description="Whether such a moment came: from it on no call goes to the provider.")
    waiting: int = Field(0, description="Calls that are held already: whoever makes one waits for no other answer.")


class RollbackRequest(Model):
    """`POST /sandboxes/{id}/rollback` of the node."""

    snapshot: str = Field(pattern=SNAPSHOT_ID, description="What to go back to.")
    safety: str = Field(pattern=SNAPSHOT_ID, description="Id of the snapshot that is taken first.")
    fallback: bool = Field(False, description="Boot it from the snapshot's disk where memory does not fit this node.")
    created_by: str | None = Field(None, max_length=256, description="Who asked for it.")


class NodeSandbox(Model):
    """A sandbox as the node knows it: the facts. One that is paused or hibernated has no address, process or memory."""

    id: str
    state: Literal["booting", "running", "paused", "hibernated", "dead"]
    template: str
    address: str = Field(description="The guest's IPv4 address in its slot; empty when it is paused.")
    guest_token: str = Field(description="The `X-Access-Token` of its guest.")
    user: str
    workdir: str
    started_at: datetime
    deadline: float
    boot_ms: float = 0.0
    start: Start | None = Field(None, description="How it came to run.")
    start_reason: str | None = Field(None, description="Why it was booted and not thawed.")
    resumed_ms: float = Field(0.0, description="How long the last resume or rollback took, in milliseconds.")
    resumed_memory: bool | None = Field(None, description="Whether memory survived that; unset before the first.")
    since: float | None = Field(None, description="Unix time of its last pause or resume; unset before the first.")
    snapshot: str | None = Field(None, description="What a paused or hibernated one stands on.")
    boot_id: str = Field("", description="Kept while its memory lives on, also over pauses; a fork has a new one.")
    cpu_seconds: float = 0.0
    memory_bytes: int = 0
    memory_peak_bytes: int = 0
    disk_bytes: int = Field(0, description="Of a paused one: the sizes of its snapshot's files.")
    llm: LlmUsage = LlmUsage()
    breaches: list[LimitBreach] = []
    death: str | None = Field(None, description="Why it is dead.")


class Orphan(Model):
    """A paused sandbox that the node keeps and the server does not know."""

    id: str
    org: str | None = Field(None, description="Whose it was.")
    template: str
    snapshot: str = Field(description="What it stands on: a new sandbox can be made from it.")
    bytes: int = Field(description="Sizes of the snapshot's files.")
    until: datetime = Field(description="End of its lifetime: then the node ends it.")


class JournalEntry(Model):
    """One fact of the node's journal. Numbers rise, have no meaning else, and are never used twice.

    kinds: sandbox_running {boot_ms}; sandbox_dead {reason, cpu_seconds, memory_peak_bytes}; limit {LimitBreach};
    egress_refused {message and fields of EgressEntry};
    llm_usage {usage: LlmUsage, the sandbox's total so far, model}; llm_auth_failed {provider, status, message};
    llm_budget_exceeded {part: llm_usd|llm_tokens|org_day_usd|org_day_tokens|org_month_usd|org_month_tokens, used,
    limit};
    llm_org_usage {org, day, usage: LlmUsage, what all its sandboxes on this node have used on that day}, of no sandbox;
    sandbox_paused {snapshot, kind, ms};
    sandbox_resumed {snapshot, memory, ms}; sandbox_rolled_back {snapshot, safety, ms}. A node that was killed may write
    the last three twice.
    """

    seq: int
    time: datetime
    sandbox: str
    kind: JournalKind
    data: dict[str, Any]


class WarmTemplate(Model):
    """What the warm pool holds of one template."""

    template: str
    ready: int = Field(description="Sandboxes that wait to be claimed.")
    target: int = Field(description="How many there should be, by recent demand and what memory allows.")
    memory_bytes: int = Field(description="Memory of those that wait.")


class GatewayInfo(Model):
    """Where the ports of sandboxes are reached."""

    url: str = Field(description="With the headers `E2b-Sandbox-Id` and `E2b-Sandbox-Port`.")
    domain: str | None = Field(None, description="Of the names `<port>-<sandbox>.<domain>`, where there are such.")


class NodeInfo(Model):
    """The node's health and size."""

    node: str = Field(description="The node's lasting id.")
    instance: str = Field(description="Changes with every start of the daemon.")
    version: str
    runtime: str
    trace: Literal["off", "processes", "all"] = Field(
        "off", description="What the kernels of sandboxes tell the audit log of what goes on inside."
    )
    sandboxes: int
    paused: int = Field(0, description="Paused sandboxes; not among `sandboxes`.")
    slots_free: int
    warm: list[WarmTemplate] = Field([], description="The warm pool; not among `sandboxes`.")
    warm_memory_limit: int = Field(0, description="Bytes that the warm pool may take; 0: it is off.")
    kernels_ahead: int = Field(0, description="Kernels that were begun ahead of a thaw and wait.")
    kernels_ahead_bytes: int = Field(0, description="Bytes of memory that these take.")
    cpus: int
    memory_bytes: int
    disk_free_bytes: int
