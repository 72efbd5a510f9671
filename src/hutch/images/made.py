"""Templates that build steps have made: of each a record, and the layers that these have written.

    <directory>/<name>.json        {org, recipe, layers}; a template is there when this is
    <directory>/layers/<key>/      one layer; several templates may stand on it

`layers` names them from the lowest on: `cache/<build>` is a recipe's build in the cache, `own/<key>` one of these.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from hutch.errors import InvalidTemplate
from hutch.images.cache import Cache, write_atomic
from hutch.images.lookup import Build
from hutch.model import LAYER, MADE_NAME, Model, Recipe

MOST_LAYERS = 24
"""In one template: the kernel takes no more of them together than their names fit into a page."""

_CACHED, _OWN = "cache/", "own/"
_NAME = re.compile(MADE_NAME)
_KEY = re.compile(LAYER)


class _Record(Model):
    org: str
    recipe: Recipe
    layers: list[str]


@dataclass(frozen=True)
class Made:
    """One of them."""

    org: str
    recipe: Recipe
    build: Build
    layers: tuple[str, ...]


class MadeTemplates:
    """All of one node. Methods block, for well under a millisecond where they only look at one."""

    def __init__(self, directory: Path, cache: Cache) -> None:
        self._directory = directory
        self._cache = cache

    def names(self) -> list[str]:
        """Sorted; none where the directory is not there, or is not ours to read."""
        try:
            found = os.listdir(self._directory)
        except OSError:
            return []
        return sorted(name.removesuffix(".json") for name in found if _NAME.fullmatch(name.removesuffix(".json")))

    def find(self, name: str) -> Made | None:
        """None when there is none of this name. Raises `InvalidTemplate` when its record cannot be read."""
        if not _NAME.fullmatch(name):
            return None
        try:
            record = _Record.model_validate_json((self._directory / f"{name}.json").read_bytes())
        except (FileNotFoundError, PermissionError):
            return None
        except (OSError, ValidationError) as error:
            raise InvalidTemplate(f"the record of the template {name} cannot be read; build it again") from error
        layers = tuple(record.layers)
        return Made(record.org, record.recipe, Build(tuple(map(self._path, layers))), layers)

    def layer(self, key: str) -> Path:
        """Where the layer of this key is, or would be."""
        return self._directory / "layers" / key

    def new_layer(self, key: str) -> Path:
        """An empty directory in which to make it, beside where it will be."""
        path = self._directory / "layers" / f".{key}.{secrets.token_hex(4)}"
        path.mkdir(mode=0o755, parents=True)
        os.chmod(self._directory, 0o700)  # setuid programs of strangers lie in there
        return path

    def write(self, name: str, org: str, recipe: Recipe, layers: tuple[str, ...]) -> None:
        """Let the name stand for these layers. They are there."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        record = _Record(org=org, recipe=recipe, layers=list(layers))
        write_atomic(self._directory / f"{name}.json", record.model_dump_json())

    def remove(self, name: str) -> bool:
        """Forget it; whether it was there. Its layers go with the next `sweep`."""
        if not _NAME.fullmatch(name):
            return False
        try:
            (self._directory / f"{name}.json").unlink()
        except FileNotFoundError:
            return False
        return True

    def sweep(self, keep: frozenset[str] = frozenset()) -> None:
        """Remove layers that no template stands on, but for these: they are just being made, or stood on soon."""
        needed = set(keep)
        for name in self.names():
            with contextlib.suppress(InvalidTemplate):
                made = self.find(name)
                needed.update(made.layers if made is not None else ())
        parent = self._directory / "layers"
        for path in parent.iterdir() if parent.is_dir() else ():
            if f"{_OWN}{path.name.removeprefix('.').partition('.')[0]}" not in needed:
                trash = parent / f".trash.{secrets.token_hex(4)}"
                path.rename(trash)
                shutil.rmtree(trash, ignore_errors=True)

    def cached_builds(self) -> frozenset[str]:
        """Builds in the cache that templates stand on."""
        found: set[str] = set()
        for name in self.names():
            with contextlib.suppress(InvalidTemplate):
                made = self.find(name)
                found.update(layer.removeprefix(_CACHED) for layer in (made.layers if made is not None else ()))
        return frozenset(found)

    def _path(self, layer: str) -> Path:
        if layer.startswith(_OWN) and _KEY.fullmatch(key := layer.removeprefix(_OWN)):
            return self.layer(key)
        name = layer.removeprefix(_CACHED)
        if not layer.startswith(_CACHED) or not name or "/" in name or name.startswith("."):
            raise InvalidTemplate(f"{layer[:100]!r} is no layer")
        return self._cache.rootfs / name


def own_layer(key: str) -> str:
    """How a record names a layer of ours."""
    return f"{_OWN}{key}"


def cached_layer(build: Path) -> str:
    """How a record names a build in the cache."""
    return f"{_CACHED}{build.name}"
