"""`Control.builds`: templates of organisations, their builds, tags and files."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from hutch.control.builds.bases import known_image
from hutch.control.builds.failing import BASE, BuildFailed
from hutch.control.builds.log import ERROR, INFO, WARN, BuildLog
from hutch.control.builds.names import DEFAULT_TAG, TemplateName, check_tags, parse_name
from hutch.control.builds.spec import BuildSpec
from hutch.control.builds.stepping import Stepping
from hutch.control.builds.tidying import Tidying
from hutch.control.builds.uploads import BuildUploads
from hutch.control.builds.worker import Found, Worker
from hutch.control.context import Context
from hutch.control.create import Creator
from hutch.control.files import Files
from hutch.control.guests import Guests
from hutch.control.lifecycle import Lifecycle
from hutch.control.oci.pulling import PRELUDE, Puller
from hutch.control.templates import Templates
from hutch.errors import (
    Conflict,
    HutchError,
    InputFailed,
    InvalidRequest,
    LimitReached,
    NodeUnavailable,
    NotFound,
    UnknownTemplate,
)
from hutch.model import ResourcesOverride, new_id
from hutch.store.template_logs import LogLine
from hutch.store.templates import BuildRow, TagRow, TemplateRow

log = structlog.get_logger("hutch.control")

_TICK = 1.0
_TIDY = 60.0
_ATTEMPTS = 3
_MOST_BEGUN = 10
"""One that takes the server with it must not do so for ever."""
_MOST_UNFINISHED = 100
"""Builds of one organisation that wait or run."""
_SHOWN = 20


@dataclass(frozen=True)
class BuildStatus:
    """How a build is."""

    build: BuildRow
    lines: Sequence[LogLine]
    reason_lines: Sequence[LogLine]
    """The last that the step printed which has failed."""


class Builds:
    """What can be asked for, and the background work that does it."""

    def __init__(
        self,
        context: Context,
        lifecycle: Lifecycle,
        creator: Creator,
        guests: Guests,
        files: Files,
        templates: Templates,
    ) -> None:
        self._context = context
        self._store = context.store.templates
        self._templates = templates
        self.uploads = BuildUploads(context)
        self._stepping = Stepping(context, lifecycle, creator, guests, files)
        self._worker = Worker(context, self._stepping, templates, self._find_base)
        self._puller = Puller(context)
        self._tidying = Tidying(context, templates, self.uploads)
        self._running: dict[str, asyncio.Task[None]] = {}
        self._busy: Counter[str] = Counter()
        """How many of each organisation run."""
        self._news = asyncio.Event()

    # ---- asking for one ----

    async def request(
        self, org: str, name: str, tags: Sequence[str], wanted: ResourcesOverride
    ) -> tuple[TemplateRow, BuildRow]:
        """A new build, which waits until it is started. Raises `InvalidRequest`, `Conflict`, `LimitReached`."""
        parsed = parse_name(name)
        own = check_tags([*([parsed.tag] if parsed.tag else []), *tags]) or [DEFAULT_TAG]
        if any(each.name == parsed.name and each.org is None for each in await self._templates.known(org)):
            raise InvalidRequest(f"{parsed.name} is a template of Hutch's own: choose another name", field="name")
        if (unfinished := await self._store.unfinished(org)) >= _MOST_UNFINISHED:
            raise Conflict(f"{unfinished} builds wait or run", hint="Wait until some have ended.")
        await self._check_room(org, await self._store.find(org, parsed.name), own, unfinished)
        template = await self._store.ensure(TemplateRow(new_id("tpl"), org, parsed.name, time.time()))
        values = wanted.model_dump(exclude_none=True)
        build = BuildRow(str(uuid.uuid4()), template.id, org, time.time(), tags=own, wanted=values)
        await self._store.add_build(build)
        return template, build

    async def start(
        self, org: str, wanted: str, build_id: str, spec: BuildSpec, login: tuple[str, str] | None = None
    ) -> None:
        """Say what to build; `login`: for the registry of its image. The same once more changes nothing. Raises
        `NotFound`, `Conflict`."""
        build = await self._build(org, wanted, build_id)
        told = spec.model_dump(mode="json")
        sealed = self._context.vault.seal(json.dumps(login), _sealing(build)) if login is not None else None
        if not await self._store.start(build.id, told, sealed) and (
            (current := await self._build(org, wanted, build_id)).spec != told or current.state == "error"
        ):
            raise Conflict("this build was started before, or has ended", hint="Ask for a new one.")
        self._news.set()

    async def status(self, org: str, wanted: str, build_id: str, offset: int, limit: int, level: int) -> BuildStatus:
        """With its log from the line `offset` on. Raises `NotFound`."""
        build = await self._build(org, wanted, build_id)  # before the log: what is said of it is in there then
        logs = self._context.store.template_logs
        lines = await logs.page(build.id, offset, limit, level)
        step = (build.reason or {}).get("step")
        return BuildStatus(build, lines, await logs.of_step(build.id, step, _SHOWN) if step else [])

    # ---- names and tags ----

    async def template(self, org: str, wanted: str) -> TemplateRow:
        """By its name or id, whatever tag stands behind it. Raises `NotFound`."""
        found = await self._find(org, wanted)
        if found is None:
            raise NotFound(f"there is no template {wanted[:100]!r}")
        return found

    async def all(self, org: str) -> list[tuple[TemplateRow, list[BuildRow]]]:
        """Those of an organisation by name, each with its builds, newest first."""
        return [(each, await self._store.builds(each.id)) for each in await self._store.all(org)]

    async def made(self, org: str, wanted: str) -> str | None:
        """What the node calls the build that `name`, `name:tag` or an id means; None where there is none."""
        found = await self._find(org, wanted)
        if found is None:
            return None
        tag = wanted.rpartition("/")[2].partition(":")[2] or DEFAULT_TAG
        build = await self._store.tagged(found.id, tag)
        if build is None and tag == "latest":
            build = await self._store.tagged(found.id, DEFAULT_TAG)
        return build.made if build is not None else None

    async def names(self, org: str, wanted: str) -> list[str] | None:
        """What the node calls all builds of a template; None where there is no such template."""
        found = await self._find(org, wanted)
        if found is None:
            return None
        return [build.made for build in await self._store.builds(found.id) if build.made is not None]

    async def exists(self, org: str, wanted: str) -> TemplateRow | None:
        """The template of this name, if a build of it is ready."""
        found = await self._find(org, wanted)
        return found if found is not None and await self._store.tags(found.id) else None

    async def tags(self, org: str, wanted: str) -> Sequence[TagRow]:
        """Raises `NotFound`."""
        return await self._store.tags((await self.template(org, wanted)).id)

    async def assign_tags(self, org: str, target: str, tags: Sequence[str]) -> tuple[BuildRow, list[str]]:
        """Let them name the build that `target` means. Raises `NotFound`, `InvalidRequest`, `LimitReached`."""
        new = check_tags(tags)
        if not new:
            raise InvalidRequest("no tags are given", field="tags")
        template = await self.template(org, target)
        tag = parse_name(target).tag or DEFAULT_TAG
        build = await self._store.tagged(template.id, tag)
        if build is None:
            raise NotFound(f"{template.name} has no build with the tag {tag!r}")
        await self._check_room(org, template, new, 0)
        await self._store.set_tags(template.id, build.id, new, time.time())
        return build, new

    async def _check_room(self, org: str, template: TemplateRow | None, tags: Sequence[str], coming: int) -> None:
        """For these tags, beside what builds that are `coming` may add. A tag that is there only changes its build."""
        there = {each.tag for each in await self._store.tags(template.id)} if template is not None else set()
        limit = self._context.settings.templates_per_org
        new = len(set(tags) - there)
        if new and await self._store.tags_of_org(org) + coming + new > limit:
            raise LimitReached(
                f"this organisation has {limit} templates, tags counted, or builds that will make as many",
                hint="Remove templates or tags that nobody needs, or set HUTCH_TEMPLATES_PER_ORG.",
                limit="templates_per_org",
            )

    async def remove_tags(self, org: str, wanted: str, tags: Sequence[str]) -> None:
        """No error for those that are not there. Raises `NotFound`."""
        template = await self.template(org, wanted)
        await self._store.remove_tags(template.id, check_tags(tags))

    async def remove(self, org: str, wanted: str) -> bool:
        """The template with all its builds, and its files when no sandbox needs them any more; whether it was there."""
        found = await self._find(org, wanted)
        if found is None:
            return False
        for build in await self._store.builds(found.id):
            await self._give_up(build.id)
            await self._stepping.end_sandbox(build.id)
        await self._store.remove(found.id)
        return True

    # ---- the work ----

    async def watch(self) -> None:
        """For ever."""
        tidied = 0.0
        await self._take_over()
        while True:
            self._news.clear()
            try:
                await self._begin()
                if time.monotonic() - tidied >= _TIDY:
                    await self._tidying.run()
                    tidied = time.monotonic()
            except NodeUnavailable:
                pass  # soon again
            except Exception:
                log.exception("template builds cannot be looked after; it is tried again")
            try:
                await asyncio.wait_for(self._news.wait(), _TICK)
            except TimeoutError:
                continue

    async def sweep(self) -> None:
        """Remove what an earlier process has left. Before anybody is answered."""
        await self._tidying.sweep_uploads()

    async def close(self) -> None:
        """Leave the builds that go on: the next process begins them anew."""
        for task in list(self._running.values()):
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def _take_over(self) -> None:
        """What an earlier process was at begins anew, with the steps that it has kept."""
        await asyncio.to_thread(self._puller.sweep)
        for build in await self._store.in_states("building"):
            log.info("template build goes on after a restart", build=build.id)
            await self._stepping.end_sandbox(build.id)
            await self._store.change(build.id, state="waiting")

    async def _begin(self) -> None:
        """The oldest first, of those who have the fewest under way: nobody waits for all that another has asked for."""
        queue = [each for each in await self._store.queue() if each[0] not in self._running]
        while queue and len(self._running) < self._context.settings.builds_at_once:
            id, org = found = min(queue, key=lambda each: self._busy[each[1]])
            queue.remove(found)
            await self._templates.answering()
            self._busy[org] += 1
            self._running[id] = task = asyncio.create_task(self._run(id))
            task.add_done_callback(lambda _, id=id, org=org: self._ended(id, org))  # type: ignore[misc]

    def _ended(self, build_id: str, org: str) -> None:
        self._running.pop(build_id, None)
        self._busy[org] -= 1
        self._news.set()

    async def _give_up(self, build_id: str) -> None:
        if (task := self._running.get(build_id)) is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self, build_id: str) -> None:
        build = await self._store.build(build_id)
        if build is None or build.state != "waiting":
            return
        if build.attempts >= _MOST_BEGUN:
            return await self._fail(build, BASE, f"given up: begun {build.attempts} times, and cut off each time")
        now = time.time()
        values = {"state": "building", "attempts": build.attempts + 1, "started_at": build.started_at or now}
        if not await self._store.change(build.id, **values):
            return
        build = await self._store.build(build_id)
        if build is None:
            return
        try:
            await self._attempt(build)
        except Exception as error:  # our own fault: it must not stay `building`
            log.exception("template build failed inside", build=build_id)
            await self._fail(build, BASE, f"something went wrong inside Hutch: {type(error).__name__}")

    async def _attempt(self, build: BuildRow) -> None:
        row = await self._store.by_id(build.template_id)
        template = row.name if row is not None else ""
        limit = self._context.settings.build_timeout
        async with BuildLog(self._context.store.template_logs, build.id, build.lines) as lines:
            try:
                async with asyncio.timeout(limit):
                    made = await self._worker.run(build, template, lines)
            except TimeoutError:
                message, step = f"the build has taken longer than {limit:g} s", BASE
            except BuildFailed as failed:
                message, step = failed.message, failed.step
            except HutchError as error:
                if build.attempts < _ATTEMPTS:
                    lines.add(f"Begun anew: {error.detail}", WARN)
                    await lines.flush()
                    await self._store.change(build.id, state="waiting")
                    return
                message, step = f"given up after {_ATTEMPTS} attempts: {error.detail}", BASE
            else:
                await lines.flush()
                if await self._store.finish(build, made, time.time()):
                    log.info("template built", template=template, made=made, build=build.id)
                return
            lines.add(message, ERROR, step)
            await lines.flush()
            await self._fail(build, step, message)

    async def _fail(self, build: BuildRow, step: str, message: str) -> None:
        reason = {"message": message, "step": step}
        await self._store.change(build.id, state="error", reason=reason, ended_at=time.time(), sealed_login=None)

    async def _find_base(self, build: BuildRow, spec: BuildSpec, lines: BuildLog) -> Found:
        if spec.template is not None:
            made = await self.made(build.org, spec.template)
            if made is not None:
                return Found(made)
            if any(each.name == spec.template for each in await self._templates.now(build.org)):
                return Found(spec.template)
            raise UnknownTemplate(f"there is no template {spec.template!r}", field="fromTemplate")
        assert spec.image is not None
        known = known_image(spec.image)
        if known is not None:
            lines.add(known.note, WARN, BASE)
            return Found(known.template)
        return await self._pulled(build, spec.image, lines)

    async def _pulled(self, build: BuildRow, image: str, lines: BuildLog) -> Found:
        login = None
        if build.sealed_login is not None:
            name, password = json.loads(self._context.vault.unseal(build.sealed_login, _sealing(build)))
            login = (str(name), str(password))
        try:
            pulled = await self._puller.pull(build, image, login, lambda text: lines.add(text, INFO, BASE))
        except InputFailed as error:
            hint = "Hutch's own are Debian 12, Python 3.11 and Node.js 24: docs/e2b.md names them."
            raise InputFailed(error.detail, hint=error.hint or hint) from error
        return Found(pulled.template, PRELUDE)

    async def _build(self, org: str, wanted: str, build_id: str) -> BuildRow:
        build = await self._store.build(build_id[:36], org)
        template = await self._find(org, wanted)
        if build is None or template is None or build.template_id != template.id:
            raise NotFound(f"there is no build {build_id[:40]!r} of the template {wanted[:100]!r}")
        return build

    async def _find(self, org: str, wanted: str) -> TemplateRow | None:
        try:
            return await self._store.find(org, _plain(wanted).name)
        except InvalidRequest:
            return None


def _sealing(build: BuildRow) -> str:
    return f"template_builds.login:{build.id}"


def _plain(wanted: str) -> TemplateName:
    """A name, or an id in a name's place."""
    bare, _, tag = wanted.partition(":")
    return TemplateName(bare, tag or None) if bare.startswith("tpl_") else parse_name(wanted)
