"""What registries and layouts say of an image, as far as it is needed."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hutch.errors import InputFailed

B = TypeVar("B", bound=BaseModel)

MOST_JSON = 4 << 20
INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
MANIFESTS = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
_MOST_LAYERS = 256


class _Said(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Platform(_Said):
    """What a manifest is for."""

    architecture: str = ""
    os: str = ""


class Descriptor(_Said):
    """A blob by its digest."""

    media_type: str = Field("", alias="mediaType")
    digest: str = Field(pattern=r"^sha256:[0-9a-f]{64}$")
    size: int = Field(ge=0, le=1 << 40)
    platform: Platform | None = None
    annotations: dict[str, str] = {}


class Index(_Said):
    """One image for several platforms."""

    manifests: list[Descriptor] = Field(max_length=1000)


class Manifest(_Said):
    """One image."""

    config: Descriptor
    layers: list[Descriptor] = Field(max_length=_MOST_LAYERS)


class Config(_Said):
    """The defaults of what runs in it."""

    Env: list[str] | None = None


class ImageConfig(_Said):
    """An image's configuration."""

    architecture: str = ""
    os: str = ""
    config: Config | None = None

    @property
    def env(self) -> dict[str, str]:
        """Its environment."""
        told = self.config.Env if self.config is not None else None
        pairs = (entry.partition("=") for entry in told or [])
        return {name: value for name, _, value in pairs if name and "\0" not in name + value}


def read(kind: type[B], data: bytes, what: str) -> B:
    """Raises `InputFailed`."""
    try:
        raw: Any = json.loads(data)
        return kind.model_validate(raw)
    except (ValueError, RecursionError, ValidationError) as error:
        raise InputFailed(f"{what} is not what it should be") from error


def is_index(data: bytes, media_type: str) -> bool:
    """Whether it lists images, rather than being one."""
    if media_type in (*INDEXES, *MANIFESTS):
        return media_type in INDEXES
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError):
        return False
    return isinstance(raw, dict) and "manifests" in raw


def for_us(index: Index, what: str) -> Descriptor:
    """The image for this platform. Raises `InputFailed`."""
    for each in index.manifests:
        if each.platform is not None and (each.platform.architecture, each.platform.os) == ("amd64", "linux"):
            return each
    if len(index.manifests) == 1 and index.manifests[0].platform is None:
        return index.manifests[0]
    raise InputFailed(f"{what} has no image for linux/amd64")
