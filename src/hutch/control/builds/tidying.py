"""What templates leave behind, removed when nobody needs it any more."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, cast

import structlog

from hutch.control.builds.uploads import BuildUploads
from hutch.control.context import Context
from hutch.control.templates import Templates
from hutch.errors import HutchError
from hutch.model import SnapshotReason, TemplateInfo

log = structlog.get_logger("hutch.control")

_NEVER_STARTED = 86400.0
_GRACE = 3600.0
"""Seconds for which the node keeps a build that no tag names: somebody may just be about to start from it."""
_LAYERS = 30 * 86400.0


class Tidying:
    """Every minute."""

    def __init__(self, context: Context, templates: Templates, uploads: BuildUploads) -> None:
        self._context = context
        self._store = context.store
        self._templates = templates
        self._uploads = uploads
        self._tried: set[str] = set()

    async def run(self) -> None:
        """Raises `NodeUnavailable`."""
        now = time.time()
        retention = now - self._context.settings.artifact_retention
        for id in await self._store.templates.never_started(now - _NEVER_STARTED):
            reason = {"message": "the build was asked for, and never started", "step": None}
            await self._store.templates.change(id, state="error", reason=reason, ended_at=now)
        await self._store.templates.forget_builds(retention)
        await self._store.template_layers.forget_before(now - _LAYERS)
        await self._uploads.forget_unused(retention)
        await self._node(now)

    async def sweep_uploads(self) -> None:
        """What a process that was killed was just being sent, or had not written down yet, or had just forgotten. To be
        called before anything is sent to this one."""
        known = await self._store.template_files.blobs()
        async for key in self._context.blobs.keys("templates/"):
            if key not in known:
                log.info("files that no build can use removed", blob=key)
                await self._context.blobs.delete(key)

    async def _node(self, now: float) -> None:
        node = self._context.fleet.nodes()[0]
        made = [each for each in await self._templates.all() if each.org is not None]
        if not made:
            return
        snapshots = await node.snapshots()
        needed = {each.template for each in snapshots if each.reason is not SnapshotReason.TEMPLATE}
        needed |= await self._store.templates.needed(now - _GRACE)
        for template in made:
            if template.name not in needed:
                log.info("template removed from the node", template=template.name)
                await node.remove_template(template.name)
                self._templates.forget()
            elif template.image is None and template.name not in self._tried:
                await self._renew(template)

    async def _renew(self, template: TemplateInfo) -> None:
        """Its image is of an earlier version of the guest: make the present one's."""
        self._tried.add(template.name)
        try:
            messages = await self._context.fleet.nodes()[0].build_template(template.name, False)
            async with aclosing(cast(AsyncGenerator[dict[str, Any], None], messages)) as stream:
                async for message in stream:
                    if message.get("type") == "error":
                        log.warning("template not made anew", template=template.name, problem=message.get("problem"))
        except HutchError as error:
            log.warning("template not made anew", template=template.name, error=error.detail)
        self._templates.forget()
