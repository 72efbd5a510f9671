"""The steps of one build, in a sandbox of their own; those whose result is known are not run again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from hutch.control.builds.commands import Commands
from hutch.control.builds.failing import BASE, BuildFailed, failure
from hutch.control.builds.log import INFO, BuildLog
from hutch.control.builds.spec import BuildSpec, Context, Step, digest, step_keys
from hutch.control.builds.steps import Steps
from hutch.control.context import Context as Server
from hutch.control.create import Creator
from hutch.control.files import Files
from hutch.control.guests import Guests
from hutch.control.lifecycle import Lifecycle
from hutch.errors import GuestUnavailable, HutchError, NodeUnavailable, NotFound
from hutch.model import BuildBoot, ResourcesOverride, TemplateInfo
from hutch.store.engine import Transaction
from hutch.store.sandboxes import SandboxRow
from hutch.store.template_files import FilesRow
from hutch.store.template_layers import LayerRow
from hutch.store.templates import BuildRow

_WORTH_KEEPING = 2.0
"""Seconds that steps have to have taken for what they have written to be kept by itself."""
_LEAST_MEMORY = 1024
"""MiB for the steps, whatever the template will have: compilers and installers need it."""


@dataclass(frozen=True)
class Plan:
    """What to do, with all that it needs."""

    build: BuildRow
    spec: BuildSpec
    base: TemplateInfo
    """Built: it has an image."""
    prelude: tuple[Step, ...]
    """What is done before the first step, of which nobody is told."""
    archives: dict[str, FilesRow]
    """What COPY steps copy, by the client's hash."""
    log: BuildLog

    @property
    def steps(self) -> list[Step]:
        """All that is done."""
        return [*self.prelude, *self.spec.steps]

    def label(self, number: int) -> str:
        """What a step is called, by its place among all that is done."""
        return str(number + 1 - len(self.prelude)) if number >= len(self.prelude) else BASE

    def tell(self, number: int, word: str = "") -> None:
        """Say that a step begins, or is not needed."""
        if number >= len(self.prelude):
            total, label = len(self.spec.steps), self.label(number)
            self.log.add(f"{word}[{label}/{total}] {self.steps[number].text}", INFO, label)

    @property
    def keys(self) -> list[str]:
        """Of the state after each step. Only the first half of an image's hash is its files: the second is the guest
        in it, which is in no layer."""
        digests = {hash: row.digest for hash, row in self.archives.items()}
        return step_keys(self.build.org, (self.base.image or "")[:16], self.steps, digests)


@dataclass(frozen=True)
class Done:
    """What the first `steps` steps have led to."""

    steps: int = 0
    layer: str | None = None
    context: Context | None = None


class Stepping:
    """One for all builds."""

    def __init__(self, server: Server, lifecycle: Lifecycle, creator: Creator, guests: Guests, files: Files) -> None:
        self._server = server
        self._store = server.store
        self._lifecycle = lifecycle
        self._creator = creator
        self._guests = guests
        self._files = files

    async def run(self, plan: Plan) -> Done:
        """All of them. Raises `BuildFailed`, `NodeUnavailable`, `GuestUnavailable`, and why there is no sandbox."""
        done = await self._cached(plan)
        for number in range(done.steps):
            plan.tell(number, "CACHED ")
        if done.steps == len(plan.steps):
            return done
        async with self._sandbox(plan, done.layer) as sandbox:
            return await self._rest(plan, done, sandbox)

    async def end_sandbox(self, build_id: str) -> None:
        """End the sandbox that the build has, if it has one."""
        build = await self._store.templates.build(build_id)
        if build is not None and build.sandbox_id is not None:
            with suppress(NotFound):
                await self._lifecycle.destroy(build.sandbox_id, "its template's build is over")
            await self._store.templates.change(build_id, sandbox_id=None)

    async def _cached(self, plan: Plan) -> Done:
        steps = plan.steps
        forced = [number for number, step in enumerate(steps) if step.force or plan.spec.force]
        keys = plan.keys[: min(forced, default=len(steps))]
        known = await self._store.template_layers.find(plan.build.org, keys)
        for number in range(len(keys), 0, -1):
            row = known.get(keys[number - 1])
            if row is None:
                continue
            if await self._server.fleet.nodes()[0].find_layer(row.layer) is not None:
                return Done(number, row.layer, Context.model_validate(row.context))
            await self._store.template_layers.forget(row.org, row.key)
        return Done()

    async def _rest(self, plan: Plan, done: Done, sandbox: SandboxRow) -> Done:
        commands = Commands(self._guests, sandbox.id, sandbox.org, plan.log)
        hands = Steps(commands, self._files, sandbox.id, sandbox.org, plan.log)
        context = done.context or Context(user=sandbox.guest_user or "user", workdir=sandbox.workdir or "/")
        layer, keys, total = done.layer, plan.keys, len(plan.steps)
        since = time.monotonic()
        for number in range(done.steps, total):
            context = await self._step(plan, number, hands, context)
            if number + 1 == total or time.monotonic() - since >= _WORTH_KEEPING:
                layer = await self._keep(plan, sandbox, keys[number], context)
                since = time.monotonic()
        return Done(total, layer, context)

    async def _step(self, plan: Plan, number: int, hands: Steps, context: Context) -> Context:
        step, label = plan.steps[number], plan.label(number)
        plan.tell(number)
        archive = self._server.blobs.get(plan.archives[step.files].blob) if step.files is not None else None
        try:
            return await hands.run(step, label, context, archive)
        except (NodeUnavailable, GuestUnavailable):
            raise
        except HutchError as error:
            raise BuildFailed(label, failure(step, label, error)) from error
        finally:
            if archive is not None:
                await archive.aclose()

    async def _keep(self, plan: Plan, sandbox: SandboxRow, key: str, context: Context) -> str:
        """Keep what was written until now, as what these steps lead to from now on."""
        layer = digest([key, plan.build.id, plan.build.attempts])
        await self._server.node_of(sandbox).keep_layer(sandbox.id, layer)
        row = LayerRow(plan.build.org, key, layer, context.model_dump(mode="json"), time.time())
        await self._store.template_layers.put(row)
        return layer

    @asynccontextmanager
    async def _sandbox(self, plan: Plan, layer: str | None) -> AsyncIterator[SandboxRow]:
        """One while this lasts. Its id is the build's before it is there."""
        build, resources = plan.build, ResourcesOverride.model_validate(plan.build.wanted).over(plan.base.resources)
        roomy = resources.model_copy(update={"memory_mib": max(resources.memory_mib, _LEAST_MEMORY)})
        seconds = self._server.settings.build_timeout

        async def also(connection: Transaction, sandbox_id: str) -> None:
            await self._store.templates.change_in(connection, build.id, sandbox_id=sandbox_id)

        try:
            boot = BuildBoot(layer=layer)
            row = await self._creator.for_steps(plan.base.name, roomy, build.org, boot, seconds, also)
            yield await self._lifecycle.boot(row)
        finally:
            await asyncio.shield(asyncio.ensure_future(self.end_sandbox(build.id)))
