"""Volumes: their names, with a key of Hutch."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse, Response

from hutch.e2b.bodies import NewVolume
from hutch.e2b.context import Call
from hutch.model import CreateVolume, Volume


async def create(call: Call) -> Response:
    """`POST /volumes`."""
    body = await call.body(NewVolume)
    wanted = CreateVolume(name=body.name)
    return JSONResponse(_with_token(call, await call.control.volumes.create(wanted.name, org=call.org)), 201)


async def list_all(call: Call) -> Response:
    """`GET /volumes`."""
    return JSONResponse([_named(volume) for volume in await call.control.volumes.all(org=call.org)])


async def get(call: Call) -> Response:
    """`GET /volumes/{id}`."""
    return JSONResponse(_with_token(call, await call.control.volumes.get(call.request.path_params["id"], org=call.org)))


async def remove(call: Call) -> Response:
    """`DELETE /volumes/{id}`."""
    await call.control.volumes.remove(call.request.path_params["id"], org=call.org)
    return Response(status_code=204)


def _named(volume: Volume) -> dict[str, Any]:
    return {"volumeID": volume.id, "name": volume.name}


def _with_token(call: Call, volume: Volume) -> dict[str, Any]:
    domain = {"domain": call.domain} if call.domain is not None else {}
    return _named(volume) | {"token": call.control.volumes.token(volume.id)} | domain
