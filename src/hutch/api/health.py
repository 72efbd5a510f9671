"""`/healthz`: whether the server answers. No key is needed, nothing is told."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import APIRouter

from hutch.api.schemas import Health

router = APIRouter(tags=["node"])
_HEALTH = Health(version=version("hutch"))


@router.get("/healthz")
async def health() -> Health:
    """Answers when the server does."""
    return _HEALTH
