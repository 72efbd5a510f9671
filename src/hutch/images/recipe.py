"""Recipes: `NAME/template.toml` below the operator's templates directory, or below the built-in one."""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hutch.errors import InvalidPolicy, InvalidTemplate, UnknownTemplate
from hutch.images import carrying
from hutch.model import NetworkPolicy, NetworkRules, Recipe
from hutch.model.policies import BUILT_IN, expanded

FILE = "template.toml"
FORMAT = 3
"""Raise it when the same recipe must be built anew because the builder has changed."""

_MAX_BYTES = 1 << 20
_LONGEST_NAME = 255
"""Bytes: of a directory's name."""
_RESIDENT = {"start", "ready", "ready_timeout"}
_NOT_BUILT_IN = {"description", "resources", "agents", "name", "network"} | _RESIDENT


class Recipes:
    """The recipes of a list of directories; an earlier directory hides the same name in a later one."""

    def __init__(self, directories: list[Path]) -> None:
        self._directories = directories

    def names(self) -> list[str]:
        """All names, sorted."""
        found = {entry.name for folder in self._directories if folder.is_dir() for entry in os.scandir(folder)}
        return sorted(name for name in found if self._file(name) is not None)

    def load(self, name: str) -> Recipe:
        """Read one. Raises `UnknownTemplate`, `InvalidTemplate`."""
        if (path := self._file(name)) is not None:
            return read(path)
        known = ", ".join(self.names()) or "none"
        raise UnknownTemplate(f"no template is called {name!r}; there are: {known}", field="template", value=name[:80])

    def _file(self, name: str) -> Path | None:
        if os.path.basename(name) != name or name in ("", ".", ".."):
            return None
        if len(name.encode(errors="replace")) > _LONGEST_NAME:
            return None
        paths = (folder / name / FILE for folder in self._directories)
        try:
            return next((path for path in paths if path.is_file()), None)
        except OSError:  # longer than a name can be
            return None

    def chain(self, name: str) -> list[Recipe]:
        """The template and all it is based on, the lowest first."""
        chain = [self.load(name)]
        while base := chain[0].base:
            if base in [recipe.name for recipe in chain]:
                raise InvalidTemplate(
                    f"template {name!r} is based on itself through {base!r}", field="base", value=base
                )
            try:
                chain.insert(0, self.load(base))
            except UnknownTemplate as error:
                raise InvalidTemplate(
                    f"template {chain[0].name!r} is based on {base!r}, which does not exist", field="base", value=base
                ) from error
        for lower, upper in pairwise(range(len(chain))):
            chain[upper] = _inherit(chain[lower], chain[upper])
        return chain


def _inherit(base: Recipe, own: Recipe) -> Recipe:
    """The defaults for what runs in the sandbox come from the base, unless the recipe has its own."""
    update: dict[str, object] = {"env": base.env | own.env}
    inherited = {"user", "workdir", "network"} | (set() if own.model_fields_set & _RESIDENT else _RESIDENT)
    update |= {field: getattr(base, field) for field in inherited - own.model_fields_set}
    return own.model_copy(update=update)


def read(path: Path) -> Recipe:
    """Parse and check one file, unless it looks as before. Raises `InvalidTemplate` that names the file and the
    field."""
    try:
        info = path.stat()
    except OSError as error:
        raise InvalidTemplate(f"{path}: cannot be read: {error}", file=str(path)) from error
    recipe = _parse(path, (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns))
    if recipe.files is not None:
        return recipe.model_copy(update={"files": str(carrying.find(path, recipe.files))})
    return recipe


@lru_cache(maxsize=256)
def _parse(path: Path, looks: tuple[int, ...]) -> Recipe:
    """Every create asks for its template, and to parse TOML takes a millisecond."""
    _, _, size, _, _ = looks
    try:
        if size > _MAX_BYTES:
            raise InvalidTemplate(f"{path}: larger than {_MAX_BYTES >> 10} KiB", file=str(path))
        data: dict[str, Any] = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidTemplate(f"{path}: cannot be read: {error}", file=str(path)) from error
    except tomllib.TOMLDecodeError as error:
        raise InvalidTemplate(f"{path}: not valid TOML: {error}", file=str(path)) from error
    try:
        recipe = Recipe.model_validate({"name": path.parent.name} | data)
        if recipe.network is not None:
            _check_network(recipe.network)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InvalidTemplate(f"{path}: {field}: {first['msg']}", file=str(path), field=field) from error
    except InvalidPolicy as error:
        raise InvalidTemplate(
            f"{path}: network: {error.detail}", hint=error.hint, file=str(path), field="network"
        ) from error
    if recipe.name != path.parent.name:
        raise InvalidTemplate(
            f"{path}: name: is {recipe.name!r}, but the directory is {path.parent.name!r}",
            hint="Leave `name` out, or rename the directory.",
            file=str(path),
            field="name",
        )
    return recipe


def _check_network(network: NetworkPolicy) -> None:
    """Policies of an organisation are looked up when a sandbox is made: here, their names will do."""
    names = network.policies if isinstance(network, NetworkRules) else []
    expanded(network, {name: () for name in names if name not in BUILT_IN})


def key(chain: list[Recipe]) -> str:
    """What the root file system of a recipe is known by: a hash over everything that goes into it, bases included."""
    total = ""
    for recipe in chain:
        content = recipe.model_dump(mode="json", exclude=_NOT_BUILT_IN)
        if recipe.files is not None:
            content["files"] = carrying.digest(Path(recipe.files))
        else:
            del content["files"]
        total = hashlib.sha256(json.dumps([FORMAT, total, content], sort_keys=True).encode()).hexdigest()
    return total[:32]


def directories(templates_dir: Path | None) -> list[Path]:
    """Where recipes are looked for: the operator's own, then those of the checkout or of the installed package."""
    package = Path(__file__).parents[1]
    built_in = [package.parents[1] / "templates", package / "templates"]
    return [folder for folder in [*([templates_dir] if templates_dir else []), *built_in] if folder.is_dir()]
