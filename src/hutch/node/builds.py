"""A template build as a stream: one JSON object a line. It ends with the template's snapshot."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator

from aiohttp import web

from hutch.errors import BootFailed, HutchError, TemplateBuildFailed
from hutch.images.catalog import ImageStore
from hutch.images.events import Done, Log, Progress
from hutch.model import TemplateInfo
from hutch.node.booting import has_residents
from hutch.node.templates import Templates
from hutch.node.warm import WarmPool


class Builds:
    """Builds templates, and says what there is of each."""

    def __init__(self, images: ImageStore, templates: Templates, pool: WarmPool, snapshots: bool) -> None:
        self._images = images
        self._templates = templates
        self._pool = pool
        self._snapshots = snapshots

    def describe(self, template: TemplateInfo) -> TemplateInfo:
        """With what the node has of it beside the image."""
        shelf = self._pool.shelves.get(template.name)
        ready = self._templates.ready(template)
        return template.model_copy(update={"snapshot": ready, "warm": len(shelf.members) if shelf else 0})

    async def stream(self, request: web.Request, name: str, force: bool) -> web.StreamResponse:
        """Build, and answer with its events as they come. A client that goes away stops it.

        Errors before the first event (an unknown template) are raised, later ones are the stream's last line.
        """
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        try:
            async with contextlib.aclosing(self._build(name, force)) as events:
                async for event in events:
                    if not response.prepared:
                        await response.prepare(request)
                    await response.write(event.model_dump_json().encode() + b"\n")
        except HutchError as error:
            if not response.prepared:
                raise
            line = json.dumps({"type": "error", "problem": error.to_problem()})
            await response.write(line.encode() + b"\n")
        return response

    async def _build(self, name: str, force: bool) -> AsyncGenerator[Log | Progress | Done, None]:
        async with contextlib.aclosing(self._images.build(name, force=force)) as events:
            async for event in events:
                if not isinstance(event, Done):
                    yield event
        note = None
        if self._snapshots:
            yield Progress(step=1, of=1, text="start it, wait until it is ready, freeze it")
            note = await self._freeze(name, force)
        elif has_residents(self._images.resolve(name).recipe):
            yield Progress(step=1, of=1, text="start it, wait until it is ready")
            await self._try_out(name)
        if note is not None:
            yield Log(line=note)
        yield Done(template=self.describe(self._images.info(name)), note=note)

    async def _try_out(self, name: str) -> None:
        try:
            await self._templates.try_out(self._images.resolve(name))
        except BootFailed as error:
            raise _does_not_start(name, error) from error

    async def _freeze(self, name: str, force: bool) -> str | None:
        """Make its snapshot; when there is none, why."""
        try:
            await self._templates.make(self._images.resolve(name), anew=force)
        except BootFailed as error:
            raise _does_not_start(name, error) from error
        except HutchError as error:
            return f"no snapshot of it, sandboxes will be booted: {error.detail}"
        return None


def _does_not_start(name: str, error: BootFailed) -> TemplateBuildFailed:
    detail = f"template {name} was built, but does not start: {error.detail}"
    return TemplateBuildFailed(detail, hint=error.hint, **error.extra)
