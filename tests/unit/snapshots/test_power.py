"""Power loss and `kill -9` at any step of any write: the old state is there, or the new one."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest

from hutch.snapshots import SnapshotStore
from tests.unit.snapshots.inspect import consistent, intact
from tests.unit.snapshots.make import Files, admit, frozen, record
from tests.unit.snapshots.power import CameraDisk, Picture, Promises

BEFORE, AFTER = "boot 1", "boot 2"


async def live(root: Path, camera: CameraDisk) -> dict[str, Files]:
    """A short life of a store with all that writes in it; the files of every snapshot that ever was."""
    expected: dict[str, Files] = {}
    store = await SnapshotStore.open(root, cache_bytes=0, cpu_share=1, disk=camera, boot=BEFORE)
    camera.index = store._parts.index

    def promise(id: str, *, durable: bool = False, admitted: bool = False) -> None:
        now = camera.promises
        camera.promises = Promises(
            now.durable | {id} if durable else now.durable - {id},
            now.admitted | {id} if admitted else now.admitted - {id},
        )

    async def take(first: int) -> str:
        one = record()
        expected[one.id] = frozen(first, 40)
        await admit(store, expected[one.id], one)
        promise(one.id, admitted=True)
        await store.wait_durable(one.id)
        promise(one.id, admitted=True, durable=True)
        return one.id

    async def drop(id: str) -> None:
        promise(id)
        await store.delete(id)

    a = await take(1)
    await store.wait_stored(a)
    b = await take(30)
    await store.wait_stored(b)
    async with store.materialise(a):  # put together from chunks, and not synced
        c = await take(60)
        await store.wait_stored(c)
        await drop(c)
    await drop(a)
    await store.collect()
    await drop(await take(120))
    await take(90)
    await store.collect()
    await store.close()
    return expected


@pytest.fixture
async def life(tmp_path: Path) -> tuple[dict[str, Files], list[Picture]]:
    root = tmp_path / "root"
    camera = CameraDisk(root, tmp_path / "album")
    expected = await live(root, camera)
    consistent(root)
    return expected, camera.pictures


async def reopen(picture: Picture, expected: dict[str, Files], boot: str, *, times: int = 1) -> set[str]:
    for _ in range(times):
        # With room for all plain files: else those that ought not to be trusted would be evicted before they are read.
        store = await SnapshotStore.open(picture.root, cache_bytes=1 << 30, cpu_share=1, boot=boot)
        found = await intact(store, expected)
        await store.close()
        consistent(picture.root)
    return found


async def test_a_killed_process_leaves_every_snapshot_that_was_admitted(
    life: tuple[dict[str, Files], list[Picture]],
) -> None:
    expected, pictures = life
    assert len({picture.step.split()[0] for picture in pictures}) == 8  # each kind of change was met
    for picture in pictures:
        found = await reopen(picture, expected, BEFORE)
        assert found >= picture.promises.admitted, picture.step


async def test_a_power_cut_leaves_every_snapshot_that_was_durable(
    life: tuple[dict[str, Files], list[Picture]],
) -> None:
    expected, pictures = life
    lost_something = False
    for number, picture in enumerate(pictures):
        picture.cut_power(random.Random(number))
        found = await reopen(picture, expected, AFTER, times=1 if number % 5 else 2)
        assert found >= picture.promises.durable, picture.step
        lost_something |= not found >= picture.promises.admitted
    assert lost_something  # else the cuts were harmless, and prove nothing


async def test_a_cut_while_the_store_is_being_opened_does_no_harm(
    life: tuple[dict[str, Files], list[Picture]], tmp_path: Path
) -> None:
    expected, pictures = life
    dirty = max(pictures, key=lambda picture: (len(picture.renames), len(list(picture.root.rglob("*")))))
    dirty.cut_power(random.Random(0))
    camera = CameraDisk(dirty.root, tmp_path / "again")
    camera.promises = dataclasses.replace(dirty.promises)
    store = await SnapshotStore.open(dirty.root, cache_bytes=0, cpu_share=1, disk=camera, boot=AFTER)
    await store.close()
    assert camera.pictures
    for picture in camera.pictures:
        assert await reopen(picture, expected, AFTER) >= dirty.promises.durable
