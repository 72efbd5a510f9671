"""Templates out of layers, as the node records them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hutch.errors import Conflict
from hutch.images.cache import Cache
from hutch.images.made import MadeTemplates
from hutch.model import MadeTemplate, Recipe, Resources
from hutch.node.making import Maker

NAME = "mine-0123456789ab"
RESOURCES = Resources(cpus=1, memory_mib=64, disk_mib=64, pids=16)


async def test_a_name_is_never_taken_from_another_organisation(tmp_path: Path) -> None:
    made = MadeTemplates(tmp_path / "templates", Cache(tmp_path / "cache"))
    made.write(NAME, "org_a", Recipe(name=NAME, resources=RESOURCES), ("own/" + "0" * 64,))
    parts = SimpleNamespace(images=SimpleNamespace(made=made))
    wanted = MadeTemplate(org="org_b", base=None, base_image=None, layer="1" * 64, resources=RESOURCES)
    unpacked: list[str] = []

    async def unpack(key: str, most: int) -> None:
        unpacked.append(key)

    with pytest.raises(Conflict, match="another organisation"):
        await Maker(cast(Any, parts), cast(Any, SimpleNamespace(unpack=unpack))).make(NAME, wanted)
    found = made.find(NAME)
    assert found is not None and found.org == "org_a" and not unpacked
