"""The budgets of organisations, as the server has sent them: kept here, so that they hold while it is away."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import structlog
from pydantic import TypeAdapter, ValidationError

from hutch.egress.llm.gateway import LlmGateway
from hutch.model import OrgBudget
from hutch.node.home import write_atomic

BUDGETS: TypeAdapter[dict[str, OrgBudget]] = TypeAdapter(dict[str, OrgBudget])

log = structlog.get_logger("hutch.node")


class Budgets:
    """One file of all, by organisation."""

    def __init__(self, path: Path, gateway: LlmGateway) -> None:
        self._path = path
        self._gateway = gateway
        self._known: dict[str, OrgBudget] = {}
        self._changing = asyncio.Lock()

    async def load(self) -> None:
        """Put in force what was kept."""
        try:
            self._known = BUDGETS.validate_json(await asyncio.to_thread(self._path.read_bytes))
        except FileNotFoundError:
            return
        except ValidationError as error:
            log.error("kept budgets unreadable; the server sends them again", path=str(self._path), error=str(error))
        self._gateway.set_budgets(self._known)

    async def set(self, budgets: Mapping[str, OrgBudget]) -> None:
        """Put these in force in the place of all others, at once, and keep them. Raises `OSError`."""
        async with self._changing:
            self._gateway.set_budgets(budgets)
            if self._known != budgets:
                await asyncio.to_thread(write_atomic, self._path, BUDGETS.dump_json(dict(budgets)), durable=True)
                self._known = dict(budgets)
