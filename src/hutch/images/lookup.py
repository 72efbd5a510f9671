"""Finding what is built: from a recipe to its build, from a build to its image."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from hutch.images import erofs, guest, recipe
from hutch.images.cache import Cache, read_pointer
from hutch.model import Recipe


@dataclass(frozen=True)
class Build:
    """One build of a recipe's root file system: its layers, the lowest first."""

    layers: tuple[Path, ...]


@dataclass(frozen=True)
class BuiltImage:
    """An image that sandboxes can boot from. The file of a hash never changes."""

    path: Path
    hash: str
    recipe: Recipe


def find_build(cache: Cache, chain: list[Recipe]) -> Build | None:
    """The build that stands for the recipe now."""
    names = read_pointer(pointer_path(cache, chain))
    layers = tuple(cache.rootfs / name for name in names)
    return Build(layers) if layers and all(layer.is_dir() for layer in layers) else None


def pointer_path(cache: Cache, chain: list[Recipe]) -> Path:
    """The file that says which build stands for the recipe."""
    return cache.rootfs / f"{recipe.key(chain)}.json"


def find_image(cache: Cache, chain: list[Recipe]) -> BuiltImage | None:
    """The image that stands for the recipe now, with the guest program as it is installed now."""
    build = find_build(cache, chain)
    return image_of(cache, build, chain[-1]) if build is not None else None


def image_of(cache: Cache, build: Build, top: Recipe) -> BuiltImage | None:
    """The image of this build, if it is made."""
    hash = image_hash(build, top)
    path = image_path(cache, hash)
    return BuiltImage(path, hash, top) if path.exists() else None


def image_hash(build: Build, top: Recipe) -> str:
    """Of the root file system, then of the guest: two halves, so that an image of which only the guest is out of date
    can be told from a stranger's."""
    parts = [erofs.FORMAT, guest.python_key(), guest.digest(), guest.defaults(top)]
    return _half(build.layers[-1].name) + _half(json.dumps(parts, sort_keys=True))


def image_path(cache: Cache, hash: str) -> Path:
    """Where the image of a hash lies."""
    return cache.images / f"{hash}.erofs"


def _half(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
