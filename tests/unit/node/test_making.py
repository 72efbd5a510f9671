"""Templates out of layers, as the node records them."""

from __future__ import annotations

import asyncio
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
SLOW, QUICK = "slow-0123456789ab", "quick-0123456789ab"
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


async def test_a_long_one_keeps_no_other_waiting_and_its_layer_is_not_swept(tmp_path: Path) -> None:
    made = MadeTemplates(tmp_path / "templates", Cache(tmp_path / "cache"))
    keys = {"slow": "1" * 64, "quick": "2" * 64}
    for key in keys.values():
        made.layer(key).mkdir(parents=True)
    half_made = made.new_layer(keys["slow"])
    begun, end = asyncio.Event(), asyncio.Event()

    async def unpack(key: str, most: int) -> None:
        if key == keys["slow"]:
            begun.set()
            await end.wait()

    parts, layers = SimpleNamespace(images=SimpleNamespace(made=made)), SimpleNamespace(unpack=unpack)
    maker = Maker(cast(Any, parts), cast(Any, layers))

    def wanted(key: str) -> MadeTemplate:
        return MadeTemplate(org="org_a", base=None, base_image=None, layer=key, resources=RESOURCES)

    slow = asyncio.create_task(maker.make(SLOW, wanted(keys["slow"])))
    await begun.wait()
    await asyncio.wait_for(maker.make(QUICK, wanted(keys["quick"])), 10)
    await maker.remove(QUICK)
    assert (made.layer(keys["slow"]).is_dir(), half_made.is_dir()) == (True, True)
    assert not made.layer(keys["quick"]).exists()
    end.set()
    await slow
    half_made.rmdir()
    await maker.sweep()
    assert made.layer(keys["slow"]).is_dir() and made.find(SLOW) is not None
