"""`/v1/secrets`: what sandboxes use and never see."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Response

from hutch.api.deps import ControlDep, OrgDep
from hutch.api.problems import documented
from hutch.api.schemas import Rekeyed, SecretList
from hutch.errors import InvalidPolicy, LimitReached, NotFound
from hutch.model import PutSecret, Secret
from hutch.model.secret import SECRET_NAME

router = APIRouter(prefix="/v1/secrets", tags=["secrets"])

SecretName = Annotated[str, Path(pattern=SECRET_NAME, description="Such as `GITHUB_TOKEN`.")]


@router.get("", responses=documented())
async def list_secrets(control: ControlDep, org: OrgDep) -> SecretList:
    """All of the organisation's, without their values."""
    return SecretList(secrets=await control.secrets.list(org))


@router.put("/{name}", responses=documented(InvalidPolicy, LimitReached))
async def put_secret(name: SecretName, body: PutSecret, control: ControlDep, org: OrgDep) -> Secret:
    """Make a secret, or replace it with all that belongs to it."""
    return await control.secrets.put(name, body, org)


@router.delete("/{name}", status_code=204, responses=documented(NotFound))
async def delete_secret(name: SecretName, control: ControlDep, org: OrgDep) -> Response:
    """Forget a secret."""
    await control.secrets.delete(name, org)
    return Response(status_code=204)


@router.post("/rekey", responses=documented())
async def rekey_secrets(control: ControlDep) -> Rekeyed:
    """Seal all secrets, of all organisations, with a new key, and forget the old one. Its file is the server's
    `secrets.keys`."""
    return Rekeyed(secrets=await control.secrets.rekey())
