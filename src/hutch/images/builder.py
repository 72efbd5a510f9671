"""Building what is missing for one template: its layers, then its image."""

from __future__ import annotations

import asyncio
import os
import secrets
from pathlib import Path

from hutch.errors import DiskFull, TemplateBuildFailed
from hutch.images import erofs, guest, recipe, rootfs
from hutch.images.cache import Cache, write_pointer
from hutch.images.events import Emit, Steps
from hutch.images.host import DebianSources, debian_sources
from hutch.images.layers import Stack
from hutch.images.lookup import Build, find_build, image_hash, image_path, pointer_path
from hutch.model import Recipe

_SPACE_NEEDED = 3 << 30
_SPACE_NEEDED_FOR_IMAGE = 1536 << 20
_FULL = 64 << 20


class Builder:
    """One run for one template (`chain`: it and its bases, the lowest first)."""

    def __init__(self, cache: Cache, chain: list[Recipe], emit: Emit, *, force: bool) -> None:
        self._cache = cache
        self._chain = chain
        self._force = force
        missing = [
            part for i, part in enumerate(chain, 1) if (force and i == len(chain)) or not find_build(cache, chain[:i])
        ]
        self._space = _SPACE_NEEDED if missing else _SPACE_NEEDED_FOR_IMAGE
        self._steps = Steps(2 + sum(map(rootfs.step_count, missing)), emit)

    async def run(self) -> None:
        """Build. What is finished stays for the next time when a later part fails."""
        self._cache.require_space(self._space)
        try:
            await self._run()
        except TemplateBuildFailed as error:
            if self._cache.free_space() < _FULL:
                raise DiskFull(f"the disk of {self._cache.root} is full: {error.detail}", **error.extra) from error
            raise

    async def _run(self) -> None:
        await self._steps.next("The guest's Python")
        sources = await debian_sources()
        python = await guest.build_python(self._cache, sources, self._steps.log)
        below: tuple[Path, ...] = ()
        for i in range(1, len(self._chain)):
            below = (await self._build_base(self._chain[:i], below, sources)).layers
        await self._build_template(below, python, sources)

    async def _build_base(self, chain: list[Recipe], below: tuple[Path, ...], sources: DebianSources) -> Build:
        key = recipe.key(chain)
        async with self._cache.lock(key, self._waiting):
            if found := find_build(self._cache, chain):
                pointer_path(self._cache, chain).touch()
                return found
            build = await self._build_layer(chain, below, sources)
            self._point(chain, build)
            return build

    async def _build_template(self, below: tuple[Path, ...], python: Path, sources: DebianSources) -> None:
        """The template itself. Its old build stands for it until the image of the new one is there."""
        key = recipe.key(self._chain)
        before = find_build(self._cache, self._chain)
        async with self._cache.lock(key, self._waiting):
            build = find_build(self._cache, self._chain)
            if build is None or (self._force and build == before):
                build = await self._build_layer(self._chain, below, sources)
            await self._steps.next("The image")
            await build_image(self._cache, build, self._chain[-1], python, self._steps)
            self._point(self._chain, build)
        if before and before != build:
            os.utime(before.layers[-1])  # from now on it counts as superseded

    async def _build_layer(self, chain: list[Recipe], below: tuple[Path, ...], sources: DebianSources) -> Build:
        key = recipe.key(chain)
        async with self._cache.temporary(key) as work:
            layer = await rootfs.build_layer(chain[-1], below, work, sources, self._steps)
            final = self._cache.rootfs / f"{key}-{secrets.token_hex(4)}"
            layer.rename(final)
        return Build((*below, final))

    def _point(self, chain: list[Recipe], build: Build) -> None:
        write_pointer(pointer_path(self._cache, chain), chain[-1].name, [layer.name for layer in build.layers])

    async def _waiting(self) -> None:
        await _waiting(self._steps)


async def build_image(cache: Cache, build: Build, top: Recipe, python: Path, steps: Steps) -> None:
    """Make the image of a build, with the guest in it, unless it is there."""
    hash = image_hash(build, top)
    async with cache.lock(hash, lambda: _waiting(steps)):
        final = image_path(cache, hash)
        if not final.exists():
            async with cache.temporary(hash) as work:
                app = work / "app"
                await guest.build_app(app, python, top, steps.log)
                await erofs.make_image(Stack((*build.layers, python, app), work), work / "image", steps.log)
                await asyncio.to_thread((work / "image").rename, final)


async def build_made(cache: Cache, build: Build, top: Recipe, emit: Emit) -> None:
    """Make the image of a template whose layers are all there. Raises `TemplateBuildFailed`, `DiskFull`."""
    steps = Steps(2, emit)
    cache.require_space(_SPACE_NEEDED_FOR_IMAGE)
    await steps.next("The guest's Python")
    python = guest.find_python(cache) or await guest.build_python(cache, await debian_sources(), steps.log)
    await steps.next("The image")
    await build_image(cache, build, top, python, steps)


async def _waiting(steps: Steps) -> None:
    await steps.log("Waiting: another build of the same is running")
