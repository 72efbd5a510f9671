"""The OpenID Connect issuer's public documents, and `/v1/identity` for its operator."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

from fastapi import APIRouter, Request, Response

from hutch.api.deps import ControlDep
from hutch.api.problems import documented
from hutch.errors import InvalidRequest, PayloadTooLarge
from hutch.model import Issuer, RotateKeys

router = APIRouter(tags=["identity"])

_MAX_FORM = 32 << 10
_KEPT = "public, max-age=300"
"""How long verifiers may keep the keys. The next one is published long before its turn."""
_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "application/x-www-form-urlencoded": {
                "schema": {"type": "object", "required": ["token"], "properties": {"token": {"type": "string"}}}
            }
        },
    }
}


@router.get("/.well-known/openid-configuration", responses=documented())
async def openid_configuration(control: ControlDep, response: Response) -> dict[str, Any]:
    """Who issues the identity tokens of sandboxes (OpenID Connect Discovery). Needs no key."""
    response.headers["Cache-Control"] = _KEPT
    return control.issuer.configuration()


@router.get("/.well-known/jwks.json", responses=documented())
async def json_web_keys(control: ControlDep, response: Response) -> dict[str, Any]:
    """The public keys that they are signed with: one that signs, the next, and those whose tokens still hold."""
    response.headers["Cache-Control"] = _KEPT
    return await control.issuer.published()


@router.post("/identity/introspect", responses=documented(PayloadTooLarge), openapi_extra=_FORM)
async def introspect(request: Request, control: ControlDep, response: Response) -> dict[str, Any]:
    """Whether a token holds (RFC 7662): not after its sandbox has ended. Needs no key: who has the token may ask, and
    learns nothing else."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_FORM:
            raise PayloadTooLarge(f"a token has at most {_MAX_FORM >> 10} KiB", field="token")
    try:
        token = parse_qs(body.decode("ascii")).get("token", [""])[0]
    except ValueError:
        token = ""
    if not token:
        raise InvalidRequest("`token`: the token to look at, as a form's field", field="token")
    response.headers["Cache-Control"] = "no-store"
    return await control.identities.introspect(token)


@router.get("/v1/identity", responses=documented())
async def get_issuer(control: ControlDep) -> Issuer:
    """The issuer and its keys."""
    return await control.issuer.info()


@router.post("/v1/identity/rotate", responses=documented())
async def rotate_keys(body: RotateKeys, control: ControlDep) -> Issuer:
    """Have the next key sign. Tokens of the old one hold for the grace time more."""
    await control.issuer.rotate(body.grace)
    return await control.issuer.info()
