"""The templates, as the nodes have them; remembered for a moment, because every create asks."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from hutch.control.context import Context
from hutch.control.journal import Journal
from hutch.errors import NodeUnavailable
from hutch.model import TemplateInfo

_FRESH = 5.0


class Templates:
    """One node has them today; a fleet of several will have to agree on them."""

    def __init__(self, context: Context, journal: Journal) -> None:
        self._context = context
        self._journal = journal
        self._known: list[TemplateInfo] = []
        self._until = 0.0

    async def known(self) -> Sequence[TemplateInfo]:
        """All templates, as of a few seconds ago. Raises `NodeUnavailable`."""
        return self._known if time.monotonic() < self._until else await self.now()

    async def now(self) -> Sequence[TemplateInfo]:
        """All templates."""
        self._known = await self._context.fleet.nodes()[0].templates()
        self._until = time.monotonic() + _FRESH
        return self._known

    async def build(self, name: str, force: bool) -> AsyncIterator[dict[str, Any]]:
        """Build one; messages as they come."""
        self._until = 0.0
        return await self._context.fleet.nodes()[0].build_template(name, force)

    async def answering(self) -> None:
        """Raises `NodeUnavailable` when the node does not answer just now."""
        if self._journal.connected:
            return
        try:
            await self._context.fleet.nodes()[0].info()
        except IndexError as error:
            raise NodeUnavailable("there is no node") from error
