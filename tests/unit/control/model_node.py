"""A node without sandboxes: the contract of `hutch.fleet.Node` in memory, with doors that a test can shut. What a real
one does is tested in tests/integration."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, cast

from tests.unit.control.model_agent import ModelAgent, ModelOutput

from hutch.errors import (
    Conflict,
    ExecNotFound,
    GuestUnavailable,
    HutchError,
    NodeUnavailable,
    SandboxNotRunning,
    SnapshotIncompatible,
    SnapshotNotFound,
    UnknownTemplate,
)
from hutch.fleet import Fleet, GuestClient, Node, ProcessSpec
from hutch.model import (
    BootRequest,
    Diff,
    DiffRequest,
    ExecState,
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
    RuntimeManifest,
    SnapshotKind,
    SnapshotReason,
    SnapshotRecord,
    SnapshotRequest,
    SnapshotUsage,
    TemplateInfo,
)
from hutch.model.egress import EgressEntry
from hutch.model.grant import SecretGrant

RESOURCES = Resources(cpus=1, memory_mib=512, disk_mib=1024, pids=128)


class ModelGuest:
    """Answers while its sandbox runs with the token that it was made with."""

    def __init__(self, node: ModelNode, sandbox_id: str, token: str) -> None:
        self._node, self._id, self._token = node, sandbox_id, token

    async def reach(self) -> None:
        if self._node.unreachable:
            raise GuestUnavailable("not yet")
        self._node.reached.append(self._id)

    async def process(self, exec_id: str) -> ExecState:
        self._node.served += 1
        box = self._node.boxes.get(self._id)
        if box is None or box.state != "running" or box.guest_token != self._token:
            raise SandboxNotRunning(f"{self._id} does not run")
        if self._id in self._node.emptied:
            raise ExecNotFound(f"no exec {exec_id}")
        return ExecState(id=exec_id, running=True, output_end=self._node.agent.told_end)

    async def output(self, exec_id: str, start: int = 0, follow: bool = True) -> ModelOutput:
        await self.process(exec_id)
        return self._node.agent.output(start)

    async def ack(self, exec_id: str, offset: int) -> None:
        await self.process(exec_id)
        self._node.agent.acked = offset

    async def signal(self, exec_id: str, signal: str | int, tree: bool = True) -> None:
        await self.process(exec_id)
        self._node.agent.exit(-9)

    async def start(self, spec: ProcessSpec) -> ExecState:
        self._node.started.append(spec)
        return ExecState(id=spec.id, running=True)

    async def processes(self) -> list[ExecState]:
        return self._node.processes


class ModelNode(Node):
    """Counts its calls. `doors`: a call of this name waits until its door is open, one whose name and " answer" have
    a door waits with its answer, and " look" with looking what the sandbox is after it; `refusals`: it raises this."""

    name = "local"

    def __init__(self) -> None:
        self.boxes: dict[str, NodeSandbox] = {}
        self.budgets: dict[str, OrgBudget] = {}
        self.orphans: list[str] = []
        self.records: dict[str, SnapshotRecord] = {}
        self.grants: dict[str, LlmGrant | None] = {}
        self.secrets: dict[str, SecretGrant | None] = {}
        self.boots: dict[str, BootRequest] = {}
        self.networks: dict[str, NetworkPolicy] = {}
        self.processes: list[ExecState] = []
        self.agent = ModelAgent()
        self._frozen: dict[str, Any] = {}
        self.calls: Counter[str] = Counter()
        self.doors: dict[str, asyncio.Event] = {}
        self.refusals: dict[str, HutchError] = {}
        self._fallen = asyncio.Event()
        self.waiting = 0
        """Calls to model providers that are held as soon as they are held."""
        self.kept_bytes = 1000
        """What a pause saves."""
        self.fits = True
        """Whether memory can be thawed."""
        self.emptied: set[str] = set()
        """Sandboxes that were booted from a disk: their processes are gone."""
        self.started: list[ProcessSpec] = []
        self.reached: list[str] = []
        self.unreachable = False
        self.served = 0
        self.pauses: list[PauseRequest] = []
        self.resumes: list[ResumeRequest] = []
        self.snapshots_taken: list[SnapshotRequest] = []
        self.rollbacks: list[RollbackRequest] = []
        self._tokens = 0
        self._locks: dict[str, asyncio.Lock] = {}
        self.layers: dict[str, LayerInfo] = {}
        self.made: dict[str, MadeTemplate] = {}
        self.asking: asyncio.Queue[IdentityRequest] = asyncio.Queue()
        self.answered: list[IdentityAnswer] = []
        self.messages: list[dict[str, Any]] = []
        """What the making of a template says."""

    async def _enter(self, name: str) -> None:
        self._alive()
        self.calls[name] += 1
        if name in self.doors:
            await self.doors[name].wait()
            self._alive()
        if name in self.refusals:
            raise self.refusals[name]

    async def _leave(self, name: str, answer: NodeSandbox) -> NodeSandbox:
        if (door := self.doors.get(f"{name} look")) is not None:
            await door.wait()
            dead = answer.model_copy(update={"state": "dead", "death": "deleted"})
            answer = self.boxes.get(answer.id, dead)
        if (door := self.doors.get(f"{name} answer")) is not None:
            await door.wait()
        return answer

    @property
    def down(self) -> bool:
        """Whether it answers nobody. Who waits for its journal is told at once."""
        return self._fallen.is_set()

    @down.setter
    def down(self, down: bool) -> None:
        (self._fallen.set if down else self._fallen.clear)()

    def _alive(self) -> None:
        if self.down:
            raise NodeUnavailable("the node does not answer")

    def _box(self, id: str) -> NodeSandbox:
        if id not in self.boxes:
            raise SandboxNotRunning(f"{id} does not run")
        return self.boxes[id]

    def _set(self, id: str, **values: Any) -> NodeSandbox:
        self.boxes[id] = self.boxes[id].model_copy(update=values)
        return self.boxes[id]

    def _token(self) -> str:
        self._tokens += 1
        return f"token-{self._tokens}"

    def _record(
        self,
        id: str,
        box: NodeSandbox,
        reason: SnapshotReason,
        name: str | None,
        by: str | None,
        turn: int | None = None,
        disk: bool = False,
    ) -> None:
        mine = [known.id for known in self.records.values() if known.sandbox_id == box.id]
        self._frozen.setdefault(id, self.agent.freeze())
        self.agent.cut()
        self.records.setdefault(
            id,
            SnapshotRecord(
                id=id,
                sandbox_id=box.id,
                org=self.boots[box.id].org,
                parent=mine[-1] if mine else self.boots[box.id].from_snapshot,
                reason=reason,
                name=name,
                turn=turn,
                disk=disk,
                created_at=datetime.now(UTC),
                created_by=by,
                runtime=RuntimeManifest(runtime="gvisor", version="1"),
                template=box.template,
                resources=self.boots[box.id].resources,
            ),
        )

    async def info(self) -> NodeInfo:
        self._alive()
        return NodeInfo(
            node="n", instance="i", version="1", runtime="gvisor", sandboxes=len(self.boxes), slots_free=1, cpus=1,
            memory_bytes=1, disk_free_bytes=1,
        )  # fmt: skip

    async def boot(self, sandbox_id: str, request: BootRequest) -> NodeSandbox:
        await self._enter("boot")
        if request.from_snapshot is not None and request.from_snapshot not in self.records:
            raise SnapshotNotFound("gone")
        self.boots[sandbox_id] = request
        self.networks.setdefault(sandbox_id, request.network)
        self.boxes.setdefault(
            sandbox_id,
            NodeSandbox(
                id=sandbox_id,
                state="running",
                template=request.template,
                address="10.0.0.1",
                guest_token=self._token(),
                user="user",
                workdir="/home/user",
                started_at=datetime.now(UTC),
                deadline=request.deadline,
            ),
        )
        return self.boxes[sandbox_id]

    async def sandboxes(self) -> list[NodeSandbox]:
        self._alive()
        return list(self.boxes.values())

    async def sandbox(self, sandbox_id: str) -> NodeSandbox | None:
        self._alive()
        return self.boxes.get(sandbox_id)

    async def destroy(self, sandbox_id: str) -> NodeSandbox | None:
        await self._enter("destroy")
        return self.boxes.pop(sandbox_id, None)

    async def pause(self, sandbox_id: str, request: PauseRequest) -> NodeSandbox:
        async with self._locks.setdefault(sandbox_id, asyncio.Lock()):
            await self._enter("pause")
            self.pauses.append(request)
            box = self._box(sandbox_id)
            if box.state in ("paused", "hibernated"):
                return box
            self._record(request.snapshot, box, SnapshotReason.PAUSE, None, request.created_by, disk=request.disk)
            state = "hibernated" if request.kind is SnapshotKind.DISK else "paused"
            paused = self._set(
                box.id,
                state=state,
                since=time.time(),
                snapshot=request.snapshot,
                guest_token="",
                address="",
                disk_bytes=self.kept_bytes,
            )
        return await self._leave("pause", paused)

    async def resume(self, sandbox_id: str, request: ResumeRequest) -> NodeSandbox:
        async with self._locks.setdefault(sandbox_id, asyncio.Lock()):
            await self._enter("resume")
            self.resumes.append(request)
            box = self._box(sandbox_id)
            if box.state == "running":
                return box
            memory = box.state == "paused" and self.fits
            if box.state == "paused" and not memory:
                if not request.fallback:
                    raise SnapshotIncompatible("its memory is another version's")
                self.emptied.add(box.id)
            token = self._token()
            now = time.time()
            running = self._set(
                box.id, state="running", since=now, snapshot=None, guest_token=token, resumed_memory=memory
            )
        return await self._leave("resume", running)

    async def snapshot(self, sandbox_id: str, request: SnapshotRequest) -> SnapshotRecord:
        await self._enter("snapshot")
        self.snapshots_taken.append(request)
        box = self._box(sandbox_id)
        self._record(request.snapshot, box, request.reason, request.name, request.created_by, request.turn)
        if box.state == "running":
            self._set(box.id, guest_token=self._token())
        return self.records[request.snapshot]

    async def rollback(self, sandbox_id: str, request: RollbackRequest) -> NodeSandbox:
        async with self._locks.setdefault(sandbox_id, asyncio.Lock()):
            await self._enter("rollback")
            self.rollbacks.append(request)
            box = self._box(sandbox_id)
            if request.snapshot not in self.records:
                raise SnapshotNotFound("gone")
            if request.safety not in self.records:
                self._record(request.safety, box, SnapshotReason.SAFETY, None, request.created_by)
                self.agent.thaw(self._frozen[request.snapshot])
                self._set(box.id, state="running", since=time.time(), snapshot=None, guest_token=self._token())
            return self.boxes[box.id]

    async def snapshots(self, sandbox_id: str | None = None, org: str | None = None) -> list[SnapshotRecord]:
        self._alive()
        found = self.records.values()
        return [each for each in found if sandbox_id in (None, each.sandbox_id) and org in (None, each.org)]

    async def find_snapshot(self, snapshot_id: str) -> SnapshotRecord | None:
        self._alive()
        return self.records.get(snapshot_id)

    async def diff(self, sandbox_id: str, request: DiffRequest) -> Diff:
        await self._enter("diff")
        return Diff(from_snapshot=request.from_snapshot, added=0, changed=0, removed=0, changes=[])

    async def delete_snapshot(self, snapshot_id: str) -> None:
        self._alive()
        if any(box.snapshot == snapshot_id for box in self.boxes.values()):
            raise Conflict("a paused sandbox stands on it")
        self.records.pop(snapshot_id, None)

    async def snapshot_usage(self, org: str | None) -> SnapshotUsage:
        raise NotImplementedError

    async def export_snapshot(self, snapshot_id: str) -> AsyncGenerator[bytes, None]:
        raise NotImplementedError

    async def import_snapshot(
        self, archive: AsyncIterator[bytes], org: str | None, created_by: str | None
    ) -> SnapshotRecord:
        raise NotImplementedError

    async def set_deadline(self, sandbox_id: str, deadline: float) -> None:
        self._alive()

    async def egress(self, sandbox_id: str, after: int, limit: int, wait: float) -> list[EgressEntry]:
        return []

    async def set_network(self, sandbox_id: str, policy: NetworkPolicy) -> None:
        self._alive()
        self.networks[sandbox_id] = policy

    async def set_llm(self, sandbox_id: str, grant: LlmGrant | None) -> None:
        self._alive()
        self.grants[sandbox_id] = grant

    async def set_llm_budgets(self, budgets: Mapping[str, OrgBudget]) -> None:
        self._alive()
        self.budgets = dict(budgets)

    async def tell_orphans(self, sandbox_ids: Iterable[str]) -> None:
        self._alive()
        self.orphans = list(sandbox_ids)

    async def set_secrets(self, sandbox_id: str, grant: SecretGrant | None) -> None:
        self._alive()
        self.secrets[sandbox_id] = grant

    async def hold_llm(self, sandbox_id: str, within: float, seconds: float) -> Held:
        await self._enter("hold")
        return Held(held=True, waiting=self.waiting)

    async def release_llm(self, sandbox_id: str) -> None:
        await self._enter("release")

    async def journal(self, after: int, wait: float) -> list[JournalEntry]:
        self._alive()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._fallen.wait(), wait)
        self._alive()
        return []

    async def identity_requests(self, wait: float) -> list[IdentityRequest]:
        self._alive()
        try:
            return [await asyncio.wait_for(self.asking.get(), wait)]
        except TimeoutError:
            return []

    async def answer_identity(self, answer: IdentityAnswer) -> None:
        self.answered.append(answer)

    async def template(self, name: str) -> TemplateInfo:
        for each in await self.templates():
            if each.name == name:
                return each
        raise UnknownTemplate(name)

    async def templates(self) -> list[TemplateInfo]:
        self._alive()
        own = TemplateInfo(name="standard", description="", resources=RESOURCES, image="sha")
        made = [
            TemplateInfo(name=name, description="", resources=each.resources, org=each.org, image=name)
            for name, each in self.made.items()
        ]
        return [own, *made]

    async def build_template(self, name: str, force: bool) -> AsyncIterator[dict[str, Any]]:
        raise NotImplementedError

    async def find_layer(self, key: str) -> LayerInfo | None:
        return self.layers.get(key)

    async def keep_layer(self, sandbox_id: str, key: str) -> LayerInfo:
        await self._enter("keep_layer")
        return self.layers.setdefault(key, LayerInfo(key=key, bytes=1))

    async def take_in_layer(self, key: str, stream: AsyncIterator[bytes]) -> LayerInfo:
        size = sum([len(piece) async for piece in stream])
        return self.layers.setdefault(key, LayerInfo(key=key, bytes=size))

    async def make_template(self, name: str, wanted: MadeTemplate) -> AsyncIterator[dict[str, Any]]:
        await self._enter("make_template")
        self.made[name] = wanted
        return _messages(self.messages)

    async def remove_template(self, name: str) -> None:
        await self._enter("remove_template")
        self.made.pop(name, None)

    def guest(self, sandbox_id: str, token: str) -> GuestClient:
        return cast(GuestClient, ModelGuest(self, sandbox_id, token))


async def _messages(messages: list[dict[str, Any]]) -> AsyncGenerator[dict[str, Any], None]:
    for message in messages:
        yield message


class ModelFleet(Fleet):
    """One model node."""

    def __init__(self, node: ModelNode) -> None:
        self._node = node

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def nodes(self) -> list[Node]:
        return [self._node]

    def node(self, name: str) -> Node:
        return self._node

    async def place(self, resources: Resources) -> Node:
        return self._node
