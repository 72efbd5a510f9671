"""Making a template out of a layer: its record, and what it stands on. Image and snapshot are built as any other's."""

from __future__ import annotations

import asyncio
from collections import Counter

from hutch.errors import Conflict, InvalidTemplate, TemplateNotBuilt, UnknownTemplate
from hutch.images.lookup import find_build
from hutch.images.made import MOST_LAYERS, cached_layer, own_layer
from hutch.model import MadeTemplate, Recipe
from hutch.node.layers import MOST_BYTES, Layers
from hutch.node.parts import Parts

LONGEST_READY = 90.0
_INHERITED = {"user", "workdir", "start", "ready", "ready_timeout", "agents", "network"}


class Maker:
    """One a node."""

    def __init__(self, parts: Parts, layers: Layers) -> None:
        self._images = parts.images
        self._layers = layers
        self._one = asyncio.Lock()
        self._needed: Counter[str] = Counter()
        """Layers that nobody names yet, and of which templates are just being made: they are not swept."""

    async def make(self, name: str, wanted: MadeTemplate) -> None:
        """Let the template be there, without an image so far. Done twice it is done once. Raises `NotFound` for a layer
        that is gone, `Conflict` when its base is another by now, `UnknownTemplate`, `TemplateNotBuilt`,
        `InvalidTemplate`, `TemplateBuildFailed`, `DiskFull`."""
        async with self._one:
            below, base = await asyncio.to_thread(self._begin, name, wanted)
            layers = below if wanted.layer is None else (*below, own_layer(wanted.layer))
            self._needed.update(layers)
        try:
            if wanted.layer is not None:  # it may take minutes, in which others make theirs
                most = wanted.resources.disk_mib << 20 if wanted.base is not None else MOST_BYTES
                await self._layers.unpack(wanted.layer, most)
            async with self._one:
                await asyncio.to_thread(self._write, name, wanted, base, layers)
        finally:
            self._needed.subtract(layers)

    async def remove(self, name: str) -> None:
        """Forget it, and what only it stood on. Sandboxes and snapshots of it go on. No error when it is not there."""
        async with self._one:
            if await asyncio.to_thread(self._images.made.remove, name):
                await asyncio.to_thread(self._images.made.sweep, frozenset(+self._needed))

    async def sweep(self) -> None:
        """Remove what an earlier daemon has left half-made."""
        async with self._one:
            await asyncio.to_thread(self._images.made.sweep, frozenset(+self._needed))

    def _begin(self, name: str, wanted: MadeTemplate) -> tuple[tuple[str, ...], Recipe | None]:
        self._check_owner(name, wanted)
        return self._below(wanted)

    def _write(self, name: str, wanted: MadeTemplate, base: Recipe | None, layers: tuple[str, ...]) -> None:
        self._check_owner(name, wanted)  # another may have been faster
        if not layers or len(layers) > MOST_LAYERS:
            raise InvalidTemplate(
                f"the template would have {len(layers)} layers; 1 to {MOST_LAYERS} can be put together",
                hint="Begin with a template that is not itself based on so many others.",
            )
        self._images.made.write(name, wanted.org, _recipe(name, wanted, base), layers)

    def _check_owner(self, name: str, wanted: MadeTemplate) -> None:
        if (there := self._images.made.find(name)) is not None and there.org != wanted.org:
            raise Conflict(f"another organisation has a template of the name {name}", hint="Choose another name.")

    def _below(self, wanted: MadeTemplate) -> tuple[tuple[str, ...], Recipe | None]:
        if wanted.base is None:
            return (), None
        found = self._images.info(wanted.base)
        if found.org not in (None, wanted.org):
            raise UnknownTemplate(f"there is no template {wanted.base!r}", field="base")
        if found.image is not None and found.image != wanted.base_image:
            raise Conflict(f"the template {wanted.base} was built anew meanwhile", hint="Start the build again.")
        made = self._images.made.find(wanted.base)
        if made is not None:
            return made.layers, made.recipe
        chain = self._images.recipes.chain(wanted.base)
        build = find_build(self._images.cache, chain)
        if build is None or found.image is None:
            raise TemplateNotBuilt(f"the template {wanted.base} is not built", field="base")
        return tuple(map(cached_layer, build.layers)), chain[-1]


def _recipe(name: str, wanted: MadeTemplate, base: Recipe | None) -> Recipe:
    """What is not said is as the base has it."""
    own = wanted.model_dump(include={"description", "resources"}) | {"name": name}
    told = wanted.model_dump(include={"user", "workdir", "start", "ready"}, exclude_none=True)
    if not wanted.start and wanted.ready is None:
        told.pop("start")
    else:
        told["ready_timeout"] = LONGEST_READY
    if base is None:
        return Recipe.model_validate(own | told | {"env": wanted.env})
    inherited = base.model_dump(include=_INHERITED)
    if "start" in told:
        del inherited["ready"]
    return Recipe.model_validate(inherited | own | told | {"env": base.env | wanted.env})
