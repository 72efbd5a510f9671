"""`/v1/keys`."""

from __future__ import annotations

from fastapi import APIRouter, Response

from hutch.api.deps import KeysDep, OrgDep
from hutch.api.problems import documented
from hutch.api.schemas import KeyList
from hutch.errors import Conflict, NotFound
from hutch.model import CreateKey, NewApiKey

router = APIRouter(prefix="/v1/keys", tags=["keys"])


@router.get("", responses=documented())
async def list_keys(keys: KeysDep, org: OrgDep) -> KeyList:
    """All keys, without their secrets; revoked and expired ones too."""
    return KeyList(keys=await keys.list(org=org))


@router.post("", status_code=201, responses=documented())
async def create_key(body: CreateKey, keys: KeysDep, org: OrgDep, response: Response) -> NewApiKey:
    """Make a key. The answer shows it this once."""
    response.headers["Cache-Control"] = "no-store"
    return await keys.create(body, org=org)


@router.delete("/{key_id}", status_code=204, responses=documented(NotFound, Conflict))
async def revoke_key(key_id: str, keys: KeysDep, org: OrgDep) -> Response:
    """Revoke a key, at once. The last one that works cannot be revoked."""
    await keys.revoke(key_id, org=org)
    return Response(status_code=204)
