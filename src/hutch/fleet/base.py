"""The fleet: the nodes together. What the server asks of a node, and how it reaches the guests on it.

Errors: `NodeUnavailable` when the node does not answer (retry), `GuestUnavailable` when the guest does not,
`SandboxNotRunning` when the node says that there is no such sandbox; else what the other side said.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from typing import Any

from hutch.fleet.guest import GuestClient
from hutch.model import (
    BootRequest,
    Diff,
    DiffRequest,
    Held,
    IdentityAnswer,
    IdentityRequest,
    JournalEntry,
    LayerInfo,
    LlmGrant,
    MadeTemplate,
    NetworkPolicy,
    NodeInfo,
    NodeSandbox,
    OrgBudget,
    PauseRequest,
    Resources,
    ResumeRequest,
    RollbackRequest,
    SnapshotRecord,
    SnapshotRequest,
    SnapshotUsage,
    TemplateInfo,
)
from hutch.model.egress import EgressEntry
from hutch.model.grant import SecretGrant


class Node(ABC):
    """One host machine, as the server sees it. All calls may be repeated."""

    name: str
    """The fleet's name for it; it is what a sandbox's row remembers."""

    @abstractmethod
    async def info(self) -> NodeInfo:
        """Health and size."""

    @abstractmethod
    async def boot(self, sandbox_id: str, request: BootRequest) -> NodeSandbox:
        """Boot the sandbox; returns when its guest answers, and at once when it runs already. Raises
        `UnknownTemplate`, `LimitReached`, `BootFailed`, `DiskFull`; then nothing is left on the node."""

    @abstractmethod
    async def sandboxes(self) -> list[NodeSandbox]:
        """All that the node knows."""

    @abstractmethod
    async def sandbox(self, sandbox_id: str) -> NodeSandbox | None:
        """One of them with fresh figures; None when the node does not know it."""

    @abstractmethod
    async def destroy(self, sandbox_id: str) -> NodeSandbox | None:
        """End it, in any state; its final figures, None when the node does not know it."""

    @abstractmethod
    async def pause(self, sandbox_id: str, request: PauseRequest) -> NodeSandbox:
        """Save it and take it off the host; as it is when it is paused already. Raises `SandboxNotRunning`,
        `AlreadyExists` (the snapshot's id is taken), `FreezeFailed` or `DiskFull`: then it runs on."""

    @abstractmethod
    async def resume(self, sandbox_id: str, request: ResumeRequest) -> NodeSandbox:
        """Bring a paused one back; at once when it runs. `address` and `guest_token` are new. Raises
        `SandboxNotRunning`; `LimitReached`, `ThawFailed`, `SnapshotIncompatible`, `SnapshotCorrupt`,
        `SnapshotCorrupt`, `DiskFull`: then it is paused as before."""

    @abstractmethod
    async def snapshot(self, sandbox_id: str, request: SnapshotRequest) -> SnapshotRecord:
        """A snapshot of a running sandbox, which goes on (its connections to the outside are cut), or of a paused
        one. The same id twice gives the same one. Raises `SandboxNotRunning`, `AlreadyExists` (another sandbox's
        snapshot has this id), `FreezeFailed`, `DiskFull`."""

    @abstractmethod
    async def rollback(self, sandbox_id: str, request: RollbackRequest) -> NodeSandbox:
        """Save a running or paused sandbox as `safety`, then bring it back as it was at `snapshot`: it runs. Raises
        `SnapshotNotFound`, `SandboxNotRunning`, `AlreadyExists`, `FreezeFailed`, `DiskFull`, `SnapshotIncompatible`
        before anything changes; `ThawFailed` and others when `snapshot` cannot be thawed: then it is as it was, its
        connections apart, and when even that fails it is paused (ask for its state)."""

    @abstractmethod
    async def snapshots(self, sandbox_id: str | None = None, org: str | None = None) -> list[SnapshotRecord]:
        """Those of a sandbox (also of one that is gone), of an organisation, or all; oldest first."""

    @abstractmethod
    async def find_snapshot(self, snapshot_id: str) -> SnapshotRecord | None:
        """One of them; None when the node does not have it."""

    @abstractmethod
    async def diff(self, sandbox_id: str, request: DiffRequest) -> Diff:
        """What differs between two points of a sandbox, which may be gone where both are snapshots. Raises
        `SnapshotNotFound`, `SandboxNotRunning`, `Conflict` (they have different images), `LimitReached`,
        `GuestUnavailable`, `DiskFull`, `ThawFailed`, `SnapshotIncompatible`, `SnapshotCorrupt`."""

    @abstractmethod
    async def delete_snapshot(self, snapshot_id: str) -> None:
        """Take it away; no error when it is not there. Its children become its parent's. Raises `Conflict` while a
        paused sandbox stands on it."""

    @abstractmethod
    async def snapshot_usage(self, org: str | None) -> SnapshotUsage:
        """What an organisation keeps on it."""

    @abstractmethod
    async def export_snapshot(self, snapshot_id: str) -> AsyncGenerator[bytes, None]:
        """One as a sealed archive, as it comes. Raises `SnapshotNotFound`, `SnapshotCorrupt`, `DiskFull` before the
        first piece; `NodeUnavailable`, also when it ends too early."""

    @abstractmethod
    async def import_snapshot(
        self, archive: AsyncIterator[bytes], org: str | None, created_by: str | None
    ) -> SnapshotRecord:
        """Take in what a node of this installation has exported, as a new snapshot of `org`. Raises `InvalidArchive`,
        `PayloadTooLarge`, `DiskFull`, `SnapshotIncompatible`."""

    @abstractmethod
    async def set_deadline(self, sandbox_id: str, deadline: float) -> None:
        """Unix time at which the node destroys it by itself."""

    @abstractmethod
    async def set_network(self, sandbox_id: str, policy: NetworkPolicy) -> None:
        """Change what it may reach."""

    @abstractmethod
    async def egress(self, sandbox_id: str, after: int, limit: int, wait: float) -> list[EgressEntry]:
        """What it has reached and was refused, the oldest behind `after` first; waits so long for one. Also of one that
        has ended."""

    @abstractmethod
    async def set_llm(self, sandbox_id: str, grant: LlmGrant | None) -> None:
        """Give, replace or take back its permission to call a model provider."""

    @abstractmethod
    async def set_llm_budgets(self, budgets: Mapping[str, OrgBudget]) -> None:
        """Put the budgets of all organisations in force; there are no others. Idempotent."""

    @abstractmethod
    async def tell_orphans(self, sandbox_ids: Iterable[str]) -> None:
        """Say which of its paused sandboxes are in no row: all of them."""

    @abstractmethod
    async def set_secrets(self, sandbox_id: str, grant: SecretGrant | None) -> None:
        """Give, replace or take back what it may use of secrets, also of a paused one."""

    @abstractmethod
    async def hold_llm(self, sandbox_id: str, within: float, seconds: float) -> Held:
        """Hold its calls to model providers, for at most `seconds`, from a moment on at which none is under way; not
        held when there was none `within` so many seconds. A snapshot that wants them held lets them go. Raises
        `SandboxNotRunning`."""

    @abstractmethod
    async def release_llm(self, sandbox_id: str) -> None:
        """Hold them no more."""

    @abstractmethod
    async def journal(self, after: int, wait: float) -> list[JournalEntry]:
        """Facts after the one numbered `after`; waits up to `wait` seconds for the first."""

    @abstractmethod
    async def identity_requests(self, wait: float) -> list[IdentityRequest]:
        """Questions of its sandboxes for identity tokens; waits up to `wait` seconds for the first. Those that are not
        answered soon are given out again."""

    @abstractmethod
    async def answer_identity(self, answer: IdentityAnswer) -> None:
        """The answer to one; no error when nobody waits for it any more."""

    @abstractmethod
    async def templates(self) -> list[TemplateInfo]:
        """The templates it has."""

    @abstractmethod
    async def template(self, name: str) -> TemplateInfo:
        """One of them. Raises `UnknownTemplate`, `InvalidTemplate`; `NotFound` for what is no name."""

    @abstractmethod
    async def build_template(self, name: str, force: bool) -> AsyncIterator[dict[str, Any]]:
        """Build one; the messages as they come. Raises `UnknownTemplate` before the first."""

    @abstractmethod
    async def find_layer(self, key: str) -> LayerInfo | None:
        """What the steps of a build have written, if the node still has it."""

    @abstractmethod
    async def keep_layer(self, sandbox_id: str, key: str) -> LayerInfo:
        """Keep all that a running sandbox has written since its image; it goes on. Raises `SandboxNotRunning`,
        `FreezeFailed`, `DiskFull`."""

    @abstractmethod
    async def take_in_layer(self, key: str, stream: AsyncIterator[bytes]) -> LayerInfo:
        """Keep a layer that comes from elsewhere, in the form in which guests pack theirs. Raises `InvalidArchive`,
        `DiskFull`."""

    @abstractmethod
    async def make_template(self, name: str, wanted: MadeTemplate) -> AsyncIterator[dict[str, Any]]:
        """Make one out of a layer; the messages as for `build_template`. Raises `NotFound` (the layer is gone),
        `Conflict` (its base is another by now), `UnknownTemplate`, `InvalidTemplate`, `TemplateBuildFailed` before
        the first."""

    @abstractmethod
    async def remove_template(self, name: str) -> None:
        """Forget one that was made. No error when it is not there."""

    @abstractmethod
    def guest(self, sandbox_id: str, token: str) -> GuestClient:
        """A client for the guest of a sandbox on this node. Cheap; connections are kept by the node."""


class Fleet(ABC):
    """The nodes together."""

    @abstractmethod
    async def start(self) -> None:
        """Open what the nodes' clients need. Does not fail when nodes are down."""

    @abstractmethod
    async def stop(self) -> None:
        """Close all connections. Sandboxes go on."""

    @abstractmethod
    def nodes(self) -> list[Node]:
        """All nodes, those that do not answer too."""

    @abstractmethod
    def node(self, name: str) -> Node:
        """The node of this name. Raises `NodeUnavailable` when it is no longer of the fleet."""

    @abstractmethod
    async def place(self, resources: Resources) -> Node:
        """The node on which a new sandbox of this size should go."""
