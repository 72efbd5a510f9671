"""Garbage collection: what no recipe leads to goes after its time; what is used stays."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hutch.images.cache import Cache
from hutch.images.garbage import DAY, HOUR, Current, collect

FAMILY, STRANGER = "a" * 16, "b" * 16
CURRENT = FAMILY + "1" * 16
NONE = Current(frozenset(), frozenset(), "python")


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    made = Cache(tmp_path)
    made.prepare()
    return made


@pytest.fixture
def image(cache: Cache) -> Callable[[str], Path]:
    def make(name: str) -> Path:
        path = cache.images / f"{name}.erofs"
        path.write_bytes(b"image")
        return path

    return make


def build(cache: Cache, name: str, *pointers: str) -> Path:
    layer = cache.rootfs / name
    layer.mkdir()
    for pointer in pointers:
        (cache.rootfs / f"{pointer}.json").write_text(json.dumps({"builds": [name]}))
    return layer


def later(seconds: float) -> float:
    return time.time() + seconds


def test_the_image_of_today_stays_however_old(cache: Cache, image: Callable[[str], Path]) -> None:
    path = image(CURRENT)
    assert collect(cache, Current(frozenset({CURRENT}), frozenset(), "python"), now=later(400 * DAY)) == []
    assert path.exists()


def test_a_superseded_image_goes_after_some_minutes(cache: Cache, image: Callable[[str], Path]) -> None:
    image(CURRENT)
    old = image(FAMILY + "0" * 16)
    current = Current(frozenset({CURRENT}), frozenset(), "python")
    assert collect(cache, current, now=later(HOUR / 12)) == []
    assert collect(cache, current, now=later(HOUR)) == [old]
    assert not old.exists()


def test_the_image_of_an_unknown_recipe_gets_longer(cache: Cache, image: Callable[[str], Path]) -> None:
    stranger = image(STRANGER + "0" * 16)
    assert collect(cache, NONE, now=later(2 * DAY)) == []
    assert collect(cache, NONE, now=later(40 * DAY)) == [stranger]


def test_an_image_that_a_process_has_open_stays(cache: Cache, image: Callable[[str], Path]) -> None:
    path = image(STRANGER + "0" * 16)
    fd = os.open(path, os.O_RDONLY)
    try:
        assert collect(cache, NONE, now=later(40 * DAY)) == []
    finally:
        os.close(fd)
    assert collect(cache, NONE, now=later(40 * DAY)) == [path]


def test_an_open_image_is_seen_through_a_linked_cache_directory(cache: Cache, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path, target_is_directory=True)
    path = cache.images / f"{STRANGER}x.erofs"
    path.write_bytes(b"image")
    with path.open("rb"):
        assert collect(Cache(link), NONE, now=later(40 * DAY)) == []


def test_a_build_that_a_pointer_names_stays(cache: Cache) -> None:
    layer = build(cache, "key-1", "key")
    assert collect(cache, Current(frozenset(), frozenset({"key"}), "python"), now=later(400 * DAY)) == []
    assert layer.exists()


def test_a_replaced_build_goes_unless_a_derived_one_stands_on_it(cache: Cache) -> None:
    old, base = build(cache, "key-1"), build(cache, "key-2", "derived")
    current = Current(frozenset(), frozenset({"key", "derived"}), "python")
    assert collect(cache, current, now=later(HOUR / 2)) == []
    assert collect(cache, current, now=later(HOUR * 2)) == [old]
    assert base.exists()


def test_a_forgotten_recipe_loses_its_pointer_then_its_build(cache: Cache) -> None:
    layer = build(cache, "key-1", "key")
    pointer = cache.rootfs / "key.json"
    assert collect(cache, NONE, now=later(DAY)) == []
    assert set(collect(cache, NONE, now=later(40 * DAY))) == {pointer, layer}


def test_a_damaged_pointer_is_no_reason_to_fail(cache: Cache) -> None:
    (cache.rootfs / "key.json").write_text("{")
    (cache.rootfs / "other.json").write_text("[]")
    collect(cache, NONE, now=later(HOUR))


def test_the_python_of_another_version_goes(cache: Cache) -> None:
    for name in ("python", "older"):
        (cache.python / name).mkdir()
    assert collect(cache, NONE, now=later(40 * DAY)) == [cache.python / "older"]
