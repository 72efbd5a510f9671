"""The templates of this machine and their images: what there is, where it lies, and building what is missing."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator
from pathlib import Path

import structlog

from hutch.errors import InvalidTemplate, TemplateBuildFailed, TemplateNotBuilt
from hutch.images import garbage, guest, recipe
from hutch.images.builder import Builder, build_made
from hutch.images.cache import Cache
from hutch.images.events import Done, Log, Progress
from hutch.images.lookup import BuiltImage, find_image, image_of, image_path, pointer_path
from hutch.images.made import Made, MadeTemplates
from hutch.model import Recipe, TemplateInfo
from hutch.settings import Settings

_log = structlog.get_logger(__name__)
_QUEUE = 256


class ImageStore:
    """The recipes that the settings name, and the cache of what was built from them.

    All but `build` and `collect` take well under a millisecond per template.
    """

    def __init__(self, settings: Settings) -> None:
        self.cache = Cache(settings.cache_dir)
        self.recipes = recipe.Recipes(recipe.directories(settings.templates_dir))
        self.made = MadeTemplates(settings.node_dir / "templates", self.cache)

    def templates(self) -> list[TemplateInfo]:
        """All templates, built or not; those whose file is wrong are left out, with a warning in the log."""
        made = [_made_info(one, self._made_image(one)) for one in self._all_made()]
        return [self._info(chain) for chain in self._chains()] + made

    def info(self, name: str) -> TemplateInfo:
        """One template as the API shows it. Raises `UnknownTemplate`, `InvalidTemplate`."""
        if (made := self.made.find(name)) is not None:
            return _made_info(made, self._made_image(made))
        return self._info(self.recipes.chain(name))

    def resolve(self, name: str) -> BuiltImage:
        """The image to boot. Raises `UnknownTemplate`, `InvalidTemplate`, `TemplateNotBuilt`."""
        made = self.made.find(name)
        chain = self.recipes.chain(name) if made is None else []
        if image := self._made_image(made) if made is not None else find_image(self.cache, chain):
            with contextlib.suppress(OSError):  # the time of last use, for `collect`
                os.utime(image.path)
                if chain:
                    os.utime(pointer_path(self.cache, chain))
            return image
        raise TemplateNotBuilt(
            f"template {name!r} is not built", hint=f"`hutch template build {name}` builds it.", template=name
        )

    def path(self, hash: str) -> Path:
        """Where the image with this hash lies, or would."""
        return image_path(self.cache, hash)

    async def build(self, name: str, *, force: bool = False) -> AsyncGenerator[Log | Progress | Done, None]:
        """Build what is missing for the template, telling what happens; the last event is `Done`.

        Leaving the iteration stops the build. Two builders of the same thing do it once. `force` installs anew what the
        recipe asks for, of this template alone. Raises `TemplateBuildFailed`, `DiskFull` and what `info` raises.
        """
        queue: asyncio.Queue[Log | Progress] = asyncio.Queue(_QUEUE)
        task = asyncio.create_task(self._build(name, force, queue))
        try:
            async with contextlib.aclosing(_until_done(queue, task)) as events:
                async for event in events:
                    yield event
            yield Done(template=await asyncio.to_thread(self.info, name))
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def collect(self) -> list[Path]:
        """Remove images and root file systems that nobody needs any more; what was removed. Blocking."""
        self.cache.sweep()
        return garbage.collect(self.cache, self._current())

    async def _build(self, name: str, force: bool, queue: asyncio.Queue[Log | Progress]) -> None:
        if (made := self.made.find(name)) is not None:
            return await self._build_made(name, made, queue)
        chain = self.recipes.chain(name)
        if force or not find_image(self.cache, chain):
            await asyncio.to_thread(self.collect)
            await Builder(self.cache, chain, queue.put, force=force).run()

    async def _build_made(self, name: str, made: Made, queue: asyncio.Queue[Log | Progress]) -> None:
        """Its steps were run long ago: what is missing is the image, after an upgrade of the guest."""
        for layer in made.build.layers:
            if not layer.is_dir():
                raise TemplateBuildFailed(
                    f"a layer of the template {name} is gone from the cache", hint="Build it again, from its steps."
                )
        if self._made_image(made) is None:
            await asyncio.to_thread(self.collect)
            await build_made(self.cache, made.build, made.recipe, queue.put)

    def _made_image(self, made: Made) -> BuiltImage | None:
        return image_of(self.cache, made.build, made.recipe)

    def _all_made(self) -> list[Made]:
        found = []
        for name in self.made.names():
            try:
                found.append(self.made.find(name))
            except InvalidTemplate as error:
                _log.warning("template_ignored", template=name, error=error.detail)
        return [made for made in found if made is not None]

    def _info(self, chain: list[Recipe]) -> TemplateInfo:
        return _info(chain[-1], find_image(self.cache, chain))

    def _chains(self) -> list[list[Recipe]]:
        chains = []
        for name in self.recipes.names():
            try:
                chains.append(self.recipes.chain(name))
            except InvalidTemplate as error:
                _log.warning("template_ignored", template=name, error=error.detail)
        return chains

    def _current(self) -> garbage.Current:
        chains = self._chains()
        images = {image.hash for chain in chains if (image := find_image(self.cache, chain))}
        images |= {image.hash for made in self._all_made() if (image := self._made_image(made))}
        pointers = {recipe.key(chain[:i]) for chain in chains for i in range(1, len(chain) + 1)}
        return garbage.Current(frozenset(images), frozenset(pointers), guest.python_key(), self.made.cached_builds())


def _info(top: Recipe, image: BuiltImage | None) -> TemplateInfo:
    return TemplateInfo(
        **top.model_dump(include={"name", "description", "resources", "agents", "network"}),
        image=image.hash if image else None,
        image_bytes=image.path.stat().st_size if image else None,
    )


def _made_info(made: Made, image: BuiltImage | None) -> TemplateInfo:
    return _info(made.recipe, image).model_copy(update={"org": made.org})


async def _until_done(
    queue: asyncio.Queue[Log | Progress], task: asyncio.Task[None]
) -> AsyncGenerator[Log | Progress, None]:
    """The events of a task until it ends; raises what it raises."""
    while not task.done() or not queue.empty():
        getting = asyncio.ensure_future(queue.get())
        try:
            await asyncio.wait((getting, task), return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not getting.done():
                getting.cancel()
        if getting.done():
            yield getting.result()
    await task
