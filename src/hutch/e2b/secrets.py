"""Secrets. What uses them are the header rules of sandboxes (`network`)."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse, Response

from hutch.e2b.bodies import NewSecret, SecretUpdate
from hutch.e2b.context import Call
from hutch.e2b.lists import NEXT, page_size
from hutch.e2b.views import moment
from hutch.model.e2b_secret import E2bSecret, NewE2bSecret, UpdateE2bSecret


async def create(call: Call) -> Response:
    """`POST /secrets`."""
    body = await call.body(NewSecret)
    wanted = NewE2bSecret(name=body.name, value=body.value, metadata=body.metadata)
    return JSONResponse(_view(await call.control.e2b_secrets.create(wanted, call.org)), 201)


async def list_all(call: Call) -> Response:
    """`GET /secrets`, the oldest first."""
    cursor = call.request.query_params.get("nextToken") or None
    page = await call.control.e2b_secrets.page(call.org, page_size(call), cursor)
    more = {NEXT: page.next_cursor} if page.next_cursor is not None else {}
    return JSONResponse([_view(each) for each in page.items], headers=more)


async def get(call: Call) -> Response:
    """`GET /secrets/{secret}`, by id or name."""
    return JSONResponse(_view(await call.control.e2b_secrets.get(_wanted(call), call.org)))


async def update(call: Call) -> Response:
    """`POST /secrets/{secret}`: its next version."""
    body = await call.body(SecretUpdate)
    change = UpdateE2bSecret(value=body.value, metadata=body.metadata)
    return JSONResponse(_view(await call.control.e2b_secrets.update(_wanted(call), change, call.org)))


async def delete(call: Call) -> Response:
    """`DELETE /secrets/{secret}`, with all its versions."""
    await call.control.e2b_secrets.delete(_wanted(call), call.org)
    return Response(status_code=204)


def _wanted(call: Call) -> str:
    return str(call.request.path_params["secret"])


def _view(secret: E2bSecret) -> dict[str, Any]:
    return {
        "secretID": secret.id,
        "name": secret.name,
        "currentVersion": secret.version,
        "metadata": secret.metadata,
        "createdAt": moment(secret.created_at),
        "updatedAt": moment(secret.updated_at),
    }
