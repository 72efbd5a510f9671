"""`/v1/policies`: rules of what sandboxes may reach, under a name."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Response

from hutch.api.deps import ControlDep, OrgDep
from hutch.api.problems import documented
from hutch.api.schemas import PolicyList
from hutch.errors import Conflict, InvalidPolicy, LimitReached, NotFound
from hutch.model import NamedPolicy, PutPolicy
from hutch.model.network import POLICY_NAME

router = APIRouter(prefix="/v1/policies", tags=["policies"])

PolicyName = Annotated[str, Path(pattern=POLICY_NAME, description="Such as `our-registry`.")]


@router.get("", responses=documented())
async def list_policies(control: ControlDep, org: OrgDep) -> PolicyList:
    """The named policies that there are, built-in ones and the organisation's."""
    return PolicyList(policies=list(await control.policies.list(org)))


@router.get("/{name}", responses=documented(NotFound))
async def get_policy(name: PolicyName, control: ControlDep, org: OrgDep) -> NamedPolicy:
    """One of them."""
    return await control.policies.get(name, org)


@router.put("/{name}", responses=documented(InvalidPolicy, LimitReached))
async def put_policy(name: PolicyName, body: PutPolicy, control: ControlDep, org: OrgDep) -> NamedPolicy:
    """Make a policy, or give it other rules. All sandboxes that stand on it have them when the call returns, paused
    ones when they wake; those whose node does not answer are counted as `pending`, and have them when it is back."""
    return await control.policies.put(name, body, org)


@router.delete("/{name}", status_code=204, responses=documented(InvalidPolicy, NotFound, Conflict))
async def delete_policy(name: PolicyName, control: ControlDep, org: OrgDep) -> Response:
    """Forget a policy that no sandbox stands on."""
    await control.policies.delete(name, org)
    return Response(status_code=204)
