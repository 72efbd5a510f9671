"""`/v1/llm/budget`."""

from __future__ import annotations

from fastapi import APIRouter

from hutch.api.deps import ControlDep, OrgDep
from hutch.api.problems import documented
from hutch.model import OrgBudget, OrgSpending

router = APIRouter(prefix="/v1/llm/budget", tags=["llm"])


@router.get("", responses=documented())
async def get_budget(control: ControlDep, org: OrgDep) -> OrgSpending:
    """What the caller's organisation may spend on model providers, and has spent."""
    return await control.spending.of(org)


@router.put("", responses=documented())
async def set_budget(body: OrgBudget, control: ControlDep, org: OrgDep) -> OrgSpending:
    """Set all limits; what is left out is unlimited. In force at once, for the calls under way as well."""
    return await control.spending.set(org, body)
