"""What a sandbox uses, as its guest tells it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

_MOST = 1 << 60


class GuestFigures(BaseModel):
    """The guest's `/metrics`: hostile, so in bounds, and what is not known is ignored. Sizes are in bytes."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    cpu_count: int = Field(ge=0, le=4096)
    cpu_used_pct: float = Field(ge=0, le=1e6, allow_inf_nan=False)
    mem_total: int = Field(ge=0, le=_MOST)
    mem_used: int = Field(ge=0, le=_MOST)
    mem_cache: int = Field(ge=0, le=_MOST)
    disk_used: int = Field(ge=0, le=_MOST)
    disk_total: int = Field(ge=0, le=_MOST)
