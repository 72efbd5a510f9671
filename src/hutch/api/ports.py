"""`/v1/sandboxes/{id}/ports`: the ways to the ports of a sandbox, and who may take them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request, Response

from hutch.api.deps import ControlDep, OrgDep, SandboxId, SettingsDep
from hutch.api.problems import documented
from hutch.api.urls import gateway_url
from hutch.control.ports import Door
from hutch.errors import Conflict, LimitReached, SandboxNotFound, SandboxNotRunning
from hutch.gateway.access import TRAFFIC_HEADER
from hutch.gateway.routing import PORT_HEADER, SANDBOX_HEADER
from hutch.model import Port, PortNumber, PutPort, SandboxPorts
from hutch.model.e2b import e2b_sandbox_id
from hutch.settings import Settings


async def _uncached(response: Response) -> None:
    """There is a token in each answer."""
    response.headers["Cache-Control"] = "no-store"


router = APIRouter(prefix="/v1/sandboxes", tags=["ports"], dependencies=[Depends(_uncached)])

_PortPath = Annotated[PortNumber, Path(description="1 to 65535, and none of the sandbox's own.")]


@router.get("/{sandbox_id}/ports", responses=documented(SandboxNotFound, SandboxNotRunning))
async def list_ports(
    request: Request, sandbox_id: SandboxId, control: ControlDep, org: OrgDep, settings: SettingsDep
) -> SandboxPorts:
    """The ports that need no token. All others of the sandbox do, unless all are public."""
    public = await control.ports.public(sandbox_id, org=org)
    door = await control.ports.door(sandbox_id)
    return SandboxPorts(public=door.public, ports=[_view(request, settings, door, port, True) for port in public])


@router.get("/{sandbox_id}/ports/{port}", responses=documented(SandboxNotFound, SandboxNotRunning))
async def get_port(
    request: Request, sandbox_id: SandboxId, port: _PortPath, control: ControlDep, org: OrgDep, settings: SettingsDep
) -> Port:
    """The way to a port, public or not. Whether something listens there is not looked at: that wakes nobody."""
    public = await control.ports.public(sandbox_id, org=org)
    return _view(request, settings, await control.ports.door(sandbox_id), port, port in public)


@router.put(
    "/{sandbox_id}/ports/{port}", responses=documented(SandboxNotFound, SandboxNotRunning, Conflict, LimitReached)
)
async def put_port(
    request: Request,
    sandbox_id: SandboxId,
    port: _PortPath,
    body: PutPort,
    control: ControlDep,
    org: OrgDep,
    settings: SettingsDep,
) -> Port:
    """Let anybody reach a port, or only who has the token again: each new request is judged so from now on, and what
    is open without a token is cut within seconds. It holds over pauses and rollbacks, and wakes nobody."""
    await control.ports.set_public(sandbox_id, port, body.public, org=org)
    return _view(request, settings, await control.ports.door(sandbox_id), port, body.public)


def _view(request: Request, settings: Settings, door: Door, port: int, published: bool) -> Port:
    id, public = e2b_sandbox_id(door.sandbox_id), published or door.public
    if settings.domain is not None:
        url, headers = f"https://{port}-{id}.{settings.domain}", {}
    else:
        url, headers = gateway_url(request, settings), {SANDBOX_HEADER.decode(): id, PORT_HEADER.decode(): str(port)}
    token = {} if public else {TRAFFIC_HEADER.decode(): door.traffic_token}
    return Port(
        port=port,
        public=public,
        url=url,
        headers=headers | token,
        traffic_header=TRAFFIC_HEADER.decode(),
        traffic_token=door.traffic_token,
    )
