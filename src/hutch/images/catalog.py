"""The templates of this machine and their images: what there is, where it lies, and building what is missing."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from hutch.errors import InvalidRequest, TemplateNotBuilt
from hutch.images import erofs, garbage, guest, recipe, rootfs
from hutch.images.cache import Cache, write_atomic
from hutch.images.events import Done, Emit, Log, Progress, Steps
from hutch.images.host import DebianSources, debian_sources
from hutch.images.layers import Stack
from hutch.model import Recipe, TemplateInfo
from hutch.settings import Settings

_QUEUE = 256
_SPACE_NEEDED = 3 << 30


@dataclass(frozen=True)
class BuiltImage:
    """An image that sandboxes can boot from. The file of a hash never changes."""

    path: Path
    hash: str
    recipe: Recipe


@dataclass(frozen=True)
class _Rootfs:
    """One build of a recipe's root file system."""

    build: str
    layers: tuple[Path, ...]


class ImageStore:
    """The recipes that the settings name, and the cache of what was built from them."""

    def __init__(self, settings: Settings) -> None:
        self.cache = Cache(settings.cache_dir)
        self.recipes = recipe.Recipes(recipe.directories(settings.templates_dir))

    def templates(self) -> list[TemplateInfo]:
        """All templates, built or not. Raises `InvalidTemplate` when a file is wrong."""
        return [self.info(name) for name in self.recipes.names()]

    def info(self, name: str) -> TemplateInfo:
        """One template as the API shows it."""
        chain = self.recipes.chain(name)
        image = self._find(chain)
        return TemplateInfo(
            **chain[-1].model_dump(include={"name", "description", "resources", "agents"}),
            image=image.hash if image else None,
            image_bytes=image.path.stat().st_size if image else None,
        )

    def resolve(self, name: str) -> BuiltImage:
        """The image to boot. Raises `UnknownTemplate`, `InvalidTemplate`, `TemplateNotBuilt`."""
        chain = self.recipes.chain(name)
        if image := self._find(chain):
            with contextlib.suppress(OSError):
                os.utime(image.path)  # the time of last use, for `collect`
            return image
        raise TemplateNotBuilt(
            f"template {name!r} is not built", hint=f"`hutch template build {name}` builds it.", template=name
        )

    async def build(self, name: str, *, force: bool = False) -> AsyncIterator[Log | Progress | Done]:
        """Build what is missing for the template, telling what happens; the last event is `Done`.

        Leaving the iteration stops the build. Two builders of the same thing do it once. `force` installs anew what the
        recipe asks for, of this template alone. Raises `TemplateBuildFailed`, `DiskFull` and what `resolve` raises.
        """
        queue: asyncio.Queue[Log | Progress | Done | None] = asyncio.Queue(_QUEUE)
        task = asyncio.create_task(self._run(name, force, queue))
        try:
            while event := await queue.get():
                yield event
            await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def collect(self) -> list[Path]:
        """Remove images and root file systems that nobody needs any more. Blocking."""
        self.cache.sweep()
        return garbage.collect(self.cache, self._current())

    async def _run(self, name: str, force: bool, queue: asyncio.Queue[Log | Progress | Done | None]) -> None:
        try:
            await self._build(name, force, queue.put)
            await asyncio.to_thread(self.collect)
            await queue.put(Done(template=await asyncio.to_thread(self.info, name)))
        finally:
            await queue.put(None)

    async def _build(self, name: str, force: bool, emit: Emit) -> None:
        chain = self.recipes.chain(name)
        if not force and self._find(chain):
            return
        self.cache.prepare()
        await asyncio.to_thread(self.cache.sweep)
        missing = [r for i, r in enumerate(chain, 1) if self._rootfs(chain[:i]) is None or (force and i == len(chain))]
        if missing:
            self.cache.require_space(_SPACE_NEEDED)
        steps = Steps(2 + sum(rootfs.step_count(r) for r in missing), emit)
        sources = await debian_sources()
        await steps.next("The guest's Python")
        python = await guest.build_python(self.cache, sources, steps.log)
        built = await self._build_rootfs(chain, force, sources, steps)
        await self._build_image(chain, built, python, steps)

    async def _build_rootfs(self, chain: list[Recipe], force: bool, sources: DebianSources, steps: Steps) -> _Rootfs:
        base = await self._build_rootfs(chain[:-1], False, sources, steps) if len(chain) > 1 else None
        key = recipe.key(chain)
        before = self._rootfs(chain)

        async def waiting() -> None:
            await steps.log(f"Waiting: another build of {chain[-1].name} is running")

        async with self.cache.lock(key, waiting):
            now = self._rootfs(chain)
            if now and not (force and now == before):
                (self.cache.rootfs / f"{key}.json").touch()
                return now
            build = f"{key}-{secrets.token_hex(4)}"
            layers = base.layers if base else ()
            async with self.cache.temporary(key) as work:
                layer = await rootfs.build_layer(chain[-1], layers, work, sources, steps)
                layer.chmod(0o755)
                layer.rename(self.cache.rootfs / build)
            record = {"template": chain[-1].name, "builds": [*[path.name for path in layers], build]}
            write_atomic(self.cache.rootfs / f"{key}.json", json.dumps(record))
        found = self._rootfs(chain)
        assert found is not None
        return found

    async def _build_image(self, chain: list[Recipe], built: _Rootfs, python: Path, steps: Steps) -> None:
        await steps.next("The image")
        image = self._image(chain, built)
        async with self.cache.lock(image.hash):
            if image.path.exists():
                return
            async with self.cache.temporary(image.hash) as work:
                app = work / "app"
                await guest.build_app(app, python, chain[-1], steps.log)
                stack = Stack((*built.layers, python, app), work)
                await erofs.make_image(stack, work / "image", steps.log)
                (work / "image").rename(image.path)

    def _current(self) -> garbage.Current:
        images, pointers = set(), set()
        for name in self.recipes.names():
            with contextlib.suppress(InvalidRequest):  # a broken recipe keeps what it has: its images are strangers
                chain = self.recipes.chain(name)
                pointers |= {recipe.key(chain[:i]) for i in range(1, len(chain) + 1)}
                if image := self._find(chain):
                    images.add(image.hash)
        return garbage.Current(frozenset(images), frozenset(pointers), guest.python_key())

    def _rootfs(self, chain: list[Recipe]) -> _Rootfs | None:
        try:
            record = json.loads((self.cache.rootfs / f"{recipe.key(chain)}.json").read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        layers = tuple(self.cache.rootfs / name for name in record["builds"])
        return _Rootfs(record["builds"][-1], layers) if all(layer.is_dir() for layer in layers) else None

    def _find(self, chain: list[Recipe]) -> BuiltImage | None:
        built = self._rootfs(chain)
        image = self._image(chain, built) if built else None
        return image if image and image.path.exists() else None

    def _image(self, chain: list[Recipe], built: _Rootfs) -> BuiltImage:
        # Two halves, so that an image whose guest alone is out of date can be told from a stranger's.
        guest_parts = [erofs.FORMAT, guest.python_key(), guest.digest(), guest.defaults(chain[-1])]
        name = _hash(built.build) + _hash(json.dumps(guest_parts, sort_keys=True))
        return BuiltImage(self.cache.images / f"{name}.erofs", name, chain[-1])


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
