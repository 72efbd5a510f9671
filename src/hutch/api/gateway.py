"""`/v1/gateway`: where the ports of sandboxes are reached."""

from __future__ import annotations

from fastapi import APIRouter, Request

from hutch.api.deps import SettingsDep
from hutch.api.problems import documented
from hutch.api.urls import gateway_url
from hutch.gateway import GATEWAY_LABEL
from hutch.model import GatewayInfo

router = APIRouter(prefix="/v1/gateway", tags=["node"])


@router.get("", responses=documented())
async def get_gateway(request: Request, settings: SettingsDep) -> GatewayInfo:
    """Where the gateway listens, by the name that this call was sent to."""
    if request.url.scheme == "https" and settings.domain is not None:
        return GatewayInfo(url=f"https://{GATEWAY_LABEL}.{settings.domain}", domain=settings.domain)
    return GatewayInfo(url=gateway_url(request, settings), domain=settings.domain)
