"""`/v1/node`."""

from __future__ import annotations

from fastapi import APIRouter

from hutch.api.deps import ControlDep
from hutch.api.problems import documented
from hutch.model import NodeInfo

router = APIRouter(prefix="/v1/node", tags=["node"])


@router.get("", responses=documented())
async def get_node(control: ControlDep) -> NodeInfo:
    """The node's health and size."""
    return await control.node_info()
