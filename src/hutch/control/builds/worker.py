"""One build, from its base to a template that sandboxes start from.

What is done is written down before it is begun, and each part may be done again: a build that a crash has cut off
begins anew, and finds the steps that were kept.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, cast

from hutch.control.builds.failing import BASE, FINALIZE, BuildFailed, told
from hutch.control.builds.log import DEBUG, INFO, WARN, BuildLog
from hutch.control.builds.names import made_name
from hutch.control.builds.spec import BuildSpec, Step, digest
from hutch.control.builds.stepping import Done, Plan, Stepping
from hutch.control.context import Context
from hutch.control.templates import Templates
from hutch.errors import GuestUnavailable, HutchError, NodeUnavailable, TemplateNotBuilt, from_problem
from hutch.model import MadeTemplate, ResourcesOverride, TemplateInfo
from hutch.store.template_files import FilesRow
from hutch.store.templates import BuildRow


@dataclass(frozen=True)
class Found:
    """The node's template that a build begins with, and what is done in it before the first step."""

    template: str
    prelude: tuple[Step, ...] = ()


FindBase = Callable[[BuildRow, BuildSpec, BuildLog], Awaitable[Found]]
"""Makes it if need be."""


class Worker:
    """Does builds, one call each."""

    def __init__(self, context: Context, stepping: Stepping, templates: Templates, find_base: FindBase) -> None:
        self._context = context
        self._store = context.store
        self._stepping = stepping
        self._templates = templates
        self._find_base = find_base

    async def run(self, build: BuildRow, name: str, log: BuildLog) -> str:
        """What the node calls the finished template. `name`: what its owner does. Raises `BuildFailed`; what may be
        over in a moment as it comes: `NodeUnavailable`, `GuestUnavailable`."""
        spec = BuildSpec.model_validate(build.spec)
        part = BASE
        try:
            base, prelude = await self._base(build, spec, log)
            plan = Plan(build, spec, base, prelude, await self._archives(build.org, spec.steps), log)
            done = await self._stepping.run(plan)
            part = FINALIZE
            return await self._make(plan, name, done)
        except (NodeUnavailable, GuestUnavailable):
            raise
        except HutchError as error:
            raise BuildFailed(part, told(error)) from error

    async def _base(self, build: BuildRow, spec: BuildSpec, log: BuildLog) -> tuple[TemplateInfo, tuple[Step, ...]]:
        log.add(f"[base] FROM {spec.image or spec.template}", INFO, BASE)
        found = await self._find_base(build, spec, log)
        name = found.template
        await self._store.templates.change(build.id, base=name)
        for template in await self._templates.now(build.org):
            if template.name == name and template.image is not None:
                return template, found.prelude
        raise TemplateNotBuilt(f"the template {name} is not built", hint=f"`hutch template build {name}` builds it.")

    async def _archives(self, org: str, steps: list[Step]) -> dict[str, FilesRow]:
        found: dict[str, FilesRow] = {}
        for number, step in enumerate(steps, 1):
            if step.files is None or step.files in found:
                continue
            row = await self._store.template_files.use(org, step.files, time.time())
            if row is None or await self._context.blobs.size(row.blob) != row.size:
                raise BuildFailed(str(number), f"step {number}, {step.text}: its files were not sent")
            found[step.files] = row
        return found

    async def _make(self, plan: Plan, name: str, done: Done) -> str:
        """The template, its image, and its snapshot with what runs in it."""
        spec, base = plan.spec, plan.base
        wanted = MadeTemplate(
            org=plan.build.org,
            base=base.name,
            base_image=base.image,
            layer=done.layer,
            description=f"{name}, built through E2B's API",
            start=[spec.start] if spec.start else [],
            ready=spec.ready or None,
            resources=ResourcesOverride.model_validate(plan.build.wanted).over(base.resources),
            **(done.context.model_dump() if done.context is not None else {}),
        )
        made = made_name(name, digest(wanted.model_dump(mode="json")))
        await self._store.templates.change(plan.build.id, made=made)
        plan.log.add("[finalize] The layer", INFO, FINALIZE)
        messages = await self._context.fleet.nodes()[0].make_template(made, wanted)
        async with aclosing(cast(AsyncGenerator[dict[str, Any], None], messages)) as stream:
            async for message in stream:
                _tell(message, plan.log, runs=bool(wanted.start or wanted.ready))
        self._templates.forget()
        return made


def _tell(message: dict[str, Any], log: BuildLog, runs: bool) -> None:
    """`runs`: it has processes of its own, which nobody has seen run when there is no snapshot of them."""
    match message.get("type"):
        case "progress":
            log.add(f"[finalize] {message.get('text')}", INFO, FINALIZE)
        case "log":
            log.add(str(message.get("line")), DEBUG, FINALIZE)
        case "done" if message.get("note"):
            log.add(str(message["note"]), WARN, FINALIZE)
            if runs:
                raise NodeUnavailable(f"its start command was not tried: {message['note']}")
        case "error":
            raise from_problem(message.get("problem") or {})
