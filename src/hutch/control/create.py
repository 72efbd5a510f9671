"""Creates sandboxes: the row first, then the node. What an `Idempotency-Key` has created once, it finds again."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace

import structlog
from sqlalchemy.exc import IntegrityError

from hutch.control.checks import check, forked
from hutch.control.context import Context, event
from hutch.control.found import find_snapshot
from hutch.control.grants import new_placeholder, seal_key
from hutch.control.known import Known, KnownGuests
from hutch.control.lifecycle import Lifecycle, seal_env
from hutch.control.networks import meaning, public
from hutch.control.notifier import sandbox as topic
from hutch.control.secret_grants import Kept, choose, seal
from hutch.control.supervisor import Supervisor
from hutch.control.templates import Templates
from hutch.control.types import Also, Idempotency
from hutch.control.views import sandbox_view, shorten
from hutch.errors import HutchError, IdempotencyConflict, NodeUnavailable, UploadNotFound, from_problem
from hutch.fleet import GuestClient
from hutch.model import (
    BuildBoot,
    CreateSandbox,
    DenyAll,
    Resources,
    Sandbox,
    SnapshotRecord,
    UploadInput,
    Usage,
    VolumeMount,
    new_id,
)
from hutch.model.headers import HeaderRule
from hutch.model.policies import expanded, said
from hutch.store.engine import Transaction
from hutch.store.idempotency import IdempotencyRow
from hutch.store.sandboxes import SandboxRow
from hutch.store.tasks import TaskRow

log = structlog.get_logger("hutch.control")

_REMEMBERED = 86400.0
_MAX_KEY = 256
_PROMPT_SHOWN = 1024
_AFTER_RUN_TIME = 900.0
"""By how much the default lifetime of a task's sandbox is longer than the run time it was given."""
_PATIENCE = 150.0
_ANSWERED = 0.002
"""Seconds until who has made a sandbox has been told so: nothing is to keep that up."""


class Creator:
    """`Control.create`."""

    def __init__(
        self, context: Context, lifecycle: Lifecycle, supervisor: Supervisor, templates: Templates, known: KnownGuests
    ) -> None:
        self._context = context
        self._store = context.store
        self._lifecycle = lifecycle
        self._supervisor = supervisor
        self._templates = templates
        self._known_guests = known
        self._build_network = expanded(said(context.settings.build_network.replace(",", " ").split()))
        self._boots: dict[str, asyncio.Task[Sandbox]] = {}
        self._reaching: set[asyncio.Task[None]] = set()

    async def create(
        self,
        request: CreateSandbox,
        org: str,
        by: str | None,
        idempotency: Idempotency | None,
        also: Also | None = None,
        rules: Sequence[HeaderRule] = (),
    ) -> Sandbox:
        """See `Control.create`."""
        digest = _digest(request, org)
        if idempotency is not None and not 0 < len(idempotency.key) <= _MAX_KEY:
            raise IdempotencyConflict(f"an Idempotency-Key has 1 to {_MAX_KEY} characters")
        try:
            row, task, prompt, kept = await self._rows(request, org, by, rules)
        except HutchError:  # such as for an upload that the first call has used
            if (found := await self._known(idempotency)) is None:
                raise
            return await self._again(found, digest)
        key = None
        if idempotency is not None:
            now = time.time()
            key = IdempotencyRow(idempotency.owner, idempotency.key, digest, row.id, now, now + _REMEMBERED)
        try:
            async with self._context.sealing if kept is not None else nullcontext():
                if kept is not None:
                    row = replace(row, sealed_secrets=seal(self._context, row.id, kept))
                await self._insert(row, task, prompt, key, also)
        except IntegrityError:
            if (found := await self._known(idempotency)) is None:
                raise
            return await self._again(found, digest)
        return await self._bring_up(row, task, key)

    async def for_steps(
        self, template: str, resources: Resources, org: str, build: BuildBoot, seconds: float, also: Also
    ) -> SandboxRow:
        """The row of a sandbox for the steps of a template's build, in `starting`: `Lifecycle.boot` brings it up."""
        now = time.time()
        row = SandboxRow(
            id=new_id("sbx"),
            org=org,
            state="starting",
            node=(await self._context.fleet.place(resources)).name,
            template=template,
            resources=resources.model_dump(mode="json"),
            network=self._build_network.model_dump(mode="json"),
            labels={"hutch": "template build"},
            keep=True,
            created_at=now,
            deadline=now + seconds,
            build=build.model_dump(mode="json"),
            usage=Usage().model_dump(mode="json"),
        )
        await self._insert(row, None, "", None, also)
        return row

    async def finish(self, row: SandboxRow) -> None:
        """Bring up a plain sandbox that an earlier process left in `starting`, in the background."""
        self._boot(row, None)

    async def close(self) -> None:
        """Leave the boots that go on: the next process finishes them."""
        tasks = [*self._boots.values(), *self._reaching]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def booting(self, sandbox_id: str) -> bool:
        """Whether this process is bringing it up."""
        return sandbox_id in self._boots

    async def _rows(
        self, request: CreateSandbox, org: str, by: str | None, rules: Sequence[HeaderRule]
    ) -> tuple[SandboxRow, TaskRow | None, str, Kept | None]:
        settings, now = self._context.settings, time.time()
        source = await self._source(request, org)
        if source is not None:
            request = forked(request, source)
        template = check(request, await self._templates.with_name(request.template, org), settings)
        await self._check_uploads(request, org, now)
        sandbox_id = new_id("sbx")
        base = source.resources if source is not None and source.resources is not None else template.resources
        resources = request.resources.over(base)
        network = request.network or template.network or DenyAll()
        meant = await meaning(self._context, org, network)
        kept = await choose(self._context, sandbox_id, org, request.secrets, meant.policy, rules)
        row = SandboxRow(
            id=sandbox_id,
            org=org,
            state="starting",
            node=(await self._context.fleet.place(resources)).name,
            template=template.name,
            resources=resources.model_dump(mode="json"),
            network=network.model_dump(mode="json"),
            policies_told=meant.revisions,
            labels=request.labels,
            keep=request.keep or request.agent is None,
            sealed_env=seal_env(self._context, sandbox_id, request.env),
            secrets=list(dict.fromkeys(request.secrets)),
            created_at=now,
            deadline=now + _lifetime(request, settings.default_lifetime, settings.max_lifetime),
            snapshot=source.id if source is not None else None,
            fallback=request.fallback,
            idle_timeout=request.idle_timeout,
            usage=Usage().model_dump(mode="json"),
            created_by=by,
            forked_from=source.sandbox_id if source is not None else None,
            public_ports=sorted(set(request.public_ports)),
            identity=request.identity.model_dump(mode="json", exclude_defaults=True) or None,
            volumes=await self._lifecycle.volumes.mounts_of(await self._mounts(request, source, org), org),
        )
        if request.agent is None:
            return row, None, "", kept
        await self._templates.answering()  # rather a 503 now than a task that waits for a node that is down
        return row, self._task(request, row, public(meant.policy)), request.task or "", kept

    async def _mounts(self, request: CreateSandbox, source: SnapshotRecord | None, org: str) -> Sequence[VolumeMount]:
        """Those that are asked for; else, in a fork, those that its memory knows, where they are still there."""
        if source is None or "volumes" in request.model_fields_set:
            return request.volumes
        parent = await self._store.sandboxes.get(source.sandbox_id) if source.sandbox_id else None
        if parent is None or parent.org != org or not parent.volumes:
            return []
        known = {volume.id for volume in await self._lifecycle.volumes.all(org=org)}
        return [
            VolumeMount(name=mount["name"], path=mount["path"]) for mount in parent.volumes if mount["volume"] in known
        ]

    async def _source(self, request: CreateSandbox, org: str) -> SnapshotRecord | None:
        """The snapshot that it is to be thawed from."""
        if request.from_snapshot is None:
            return None
        return await find_snapshot(self._context, request.from_snapshot, org)

    def _task(self, request: CreateSandbox, row: SandboxRow, open_: bool) -> TaskRow:
        task_id = new_id("tsk")
        key = request.llm_key.get_secret_value() if request.llm_key is not None else None
        return TaskRow(
            id=task_id,
            org=row.org,
            sandbox_id=row.id,
            agent=request.agent or "",
            model=request.model,
            prompt=shorten(request.task or "", _PROMPT_SHOWN),
            budget=request.budget.model_dump(mode="json"),
            usage=Usage().model_dump(mode="json"),
            inputs=[wanted.model_dump(mode="json") for wanted in request.inputs],
            output_globs=list(request.outputs),
            checkpoints=request.checkpoints,
            sealed_llm_key=seal_key(self._context, task_id, key) if key is not None else None,
            llm_provider=request.llm_provider,
            provider_tools=open_ if request.provider_tools is None else request.provider_tools == "allow",
            placeholder=new_placeholder() if key is not None else None,
            created_at=row.created_at,
        )

    async def _check_uploads(self, request: CreateSandbox, org: str, now: float) -> None:
        for wanted in request.inputs:
            if isinstance(wanted, UploadInput) and await self._store.uploads.get(wanted.upload, org, now) is None:
                raise UploadNotFound(f"no upload {wanted.upload[:64]}", field="inputs")

    async def _insert(
        self,
        row: SandboxRow,
        task: TaskRow | None,
        prompt: str,
        key: IdempotencyRow | None,
        also: Also | None,
    ) -> None:
        async def insert(connection: Transaction) -> None:
            if key is not None:
                await self._store.idempotency.insert(connection, key)
            await self._lifecycle.volumes.check_mounts(connection, row)
            await self._store.sandboxes.insert(connection, row)
            if also is not None:
                await also(connection, row.id)
            if task is not None:
                await self._store.tasks.insert(connection, task, prompt)
                await self._store.readers.insert(connection, task.id)
                await self._store.events.append(connection, task.id, [event("status", state="queued", step="boot")])

        await self._store.database.transact(insert)

    async def _bring_up(self, row: SandboxRow, task: TaskRow | None, key: IdempotencyRow | None) -> Sandbox:
        if task is not None:
            self._supervisor.submit(task.id)
            found = sandbox_view(row, replace(task, last_offset=1))
        else:
            try:
                return await asyncio.shield(self._boot(row, key))  # it goes on when the caller vanishes
            except HutchError as error:
                if key is not None and error.retryable:
                    await self._store.idempotency.forget(key.owner, key.key, key.sandbox_id)
                raise
        if key is not None:
            await self._store.idempotency.answer(key.owner, key.key, found.model_dump(mode="json"))
        return found

    def _boot(self, row: SandboxRow, key: IdempotencyRow | None) -> asyncio.Task[Sandbox]:
        boot = self._boots.get(row.id)
        if boot is None:
            boot = self._boots[row.id] = asyncio.create_task(self._boot_plain(row, key))
            boot.add_done_callback(lambda done: self._booted(row.id, done))
        return boot

    def _booted(self, sandbox_id: str, done: asyncio.Task[Sandbox]) -> None:
        self._boots.pop(sandbox_id, None)
        if not done.cancelled() and (error := done.exception()) is not None:
            log.info("sandbox did not start", sandbox=sandbox_id, error=str(error))

    async def _boot_plain(self, row: SandboxRow, key: IdempotencyRow | None) -> Sandbox:
        """What the caller is answered: word for word what is kept for a repetition."""
        told: Sandbox | None = None
        age = self._known_guests.age

        async def answer(connection: Transaction, running: SandboxRow) -> None:
            nonlocal told
            told = sandbox_view(running, None)
            if key is not None:
                view = told.model_dump(mode="json")
                await self._store.idempotency.answer_in(connection, key.owner, key.key, view)

        try:
            found = await self._lifecycle.boot(row, also=answer)
            self._expect_use(found, age)
            return told or sandbox_view(found, None)
        except NodeUnavailable as error:
            await self._lifecycle.fail(row.id, error)
            raise

    def _expect_use(self, row: SandboxRow, age: int) -> None:
        """Most are given a command at once: the way to their guest is made while their makers read that they run."""
        guest = self._context.guest_of(row)
        self._known_guests.put(row.id, Known(row.org, guest), age)
        task = asyncio.create_task(_reach(guest))
        self._reaching.add(task)
        task.add_done_callback(self._reaching.discard)

    # ---- the same key again ----

    async def _known(self, idempotency: Idempotency | None) -> IdempotencyRow | None:
        """Asked when there is a reason to: most keys are new, and the row of one that is not cannot be written."""
        return None if idempotency is None else await self._store.idempotency.get(idempotency.owner, idempotency.key)

    async def _again(self, found: IdempotencyRow, digest: str) -> Sandbox:
        """What the first call got, or is about to get."""
        if found.request_hash != digest:
            raise IdempotencyConflict("this Idempotency-Key was used for another request")
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until:
            bell = self._context.notifier.bell(topic(found.sandbox_id))
            current = await self._store.idempotency.get(found.owner, found.key)
            if current is not None and current.response is not None:
                return Sandbox.model_validate(current.response)
            row = await self._store.sandboxes.get(found.sandbox_id)
            if row is None:
                break
            task = (await self._store.tasks.of_sandboxes([row.id])).get(row.id)
            if row.problem is not None:
                raise from_problem(row.problem)
            if row.state != "starting" or task is not None:
                return sandbox_view(row, task)
            await self._context.notifier.wait(bell, 1.0)
        raise IdempotencyConflict("the first request with this Idempotency-Key has not ended yet")


async def _reach(guest: GuestClient) -> None:
    await asyncio.sleep(_ANSWERED)
    with suppress(HutchError):  # it is told to who calls it
        await guest.reach()


def _digest(request: CreateSandbox, org: str) -> str:
    fields = request.model_dump(mode="json")
    fields["llm_key"] = request.llm_key.get_secret_value() if request.llm_key is not None else None
    return hashlib.sha256(json.dumps([org, fields], sort_keys=True).encode()).hexdigest()


def _lifetime(request: CreateSandbox, default: float, most: float) -> float:
    if request.lifetime is not None:
        return request.lifetime
    run_time = request.budget.run_time if request.agent is not None else None
    return min(most, max(default, run_time + _AFTER_RUN_TIME)) if run_time is not None else min(default, most)
