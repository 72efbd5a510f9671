"""Templates that are made from what build steps have written, rather than from a recipe in a file."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from hutch.model.common import Model, Resources

LAYER = r"^[0-9a-f]{64}$"
"""Key of a layer: a hash over all that has led to it."""

MADE_NAME = r"^[a-z0-9][a-z0-9-]{0,48}-[0-9a-f]{12}$"


class BuildBoot(Model):
    """A sandbox in which build steps are run: booted from the bare image, without the template's resident processes."""

    layer: str | None = Field(None, pattern=LAYER, description="What earlier steps have written, put back first.")


class KeepLayer(Model):
    """`POST /sandboxes/{id}/layer` of the node: keep all that it has written since its image."""

    key: str = Field(pattern=LAYER)


class LayerInfo(Model):
    """A layer that the node has."""

    key: str
    bytes: int


class MadeTemplate(Model):
    """`PUT /templates/{name}` of the node. The same name and content again changes nothing."""

    org: str = Field(min_length=1, max_length=64, description="Whose it is.")
    base: str | None = Field(description="The template that it stands on; unset where the layer is a whole system.")
    base_image: str | None = Field(description="The image of that, as it was when the layer was written.")
    layer: str | None = Field(None, pattern=LAYER, description="What was written over it.")
    description: str = Field("", max_length=1000)
    env: dict[str, str] = Field({}, description="Over the base's.")
    user: str | None = Field(None, min_length=1, max_length=64, description="The base's where it is unset.")
    workdir: str | None = Field(None, min_length=1, max_length=4096, description="The base's where it is unset.")
    start: list[Annotated[str, Field(min_length=1, max_length=64 << 10)]] = Field([], max_length=16)
    ready: str | None = Field(
        None, min_length=1, max_length=64 << 10, description="Where neither is set, both are the base's."
    )
    resources: Resources
