"""Volumes: files that outlive sandboxes, and are shared by several."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from hutch.model.common import Model

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"


class CreateVolume(Model):
    """`POST /v1/volumes`."""

    name: str = Field(pattern=NAME, description="Unique in the organisation: what sandboxes mount it by.")


class Volume(Model):
    """A volume."""

    id: str
    name: str
    created_at: datetime


class VolumeMount(Model):
    """Where a sandbox has a volume."""

    name: str = Field(pattern=NAME, description="The volume's name.")
    path: str = Field(
        pattern=r"^/[^\x00]{0,1023}$", description="An absolute path in the sandbox; made if it is missing."
    )


class VolumeList(Model):
    """`GET /v1/volumes`."""

    volumes: list[Volume]
    used_bytes: int = Field(description="Bytes that they take together of what the organisation may have.")
