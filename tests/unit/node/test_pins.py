"""Images that are kept for snapshots, whatever happens to the cache."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from hutch.node.pins import Pins


@pytest.fixture
def pins(tmp_path: Path) -> Pins:
    (tmp_path / "pins").mkdir()
    (tmp_path / "image").write_bytes(b"image")
    return Pins(tmp_path / "pins")


async def test_an_image_outlives_the_cache_and_takes_no_room_beside_it(pins: Pins, tmp_path: Path) -> None:
    pinned = await pins.pin(tmp_path / "image", "hash")
    assert pinned == pins.path("hash") and pinned.stat().st_nlink == 2
    (tmp_path / "image").unlink()
    assert (await pins.pin(tmp_path / "image", "hash")).read_bytes() == b"image"


async def test_on_another_file_system_it_is_a_copy(pins: Pins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*paths: Path) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    pinned = await pins.pin(tmp_path / "image", "hash")
    assert pinned.read_bytes() == b"image" and pinned.stat().st_nlink == 1
    assert [path.name for path in pinned.parent.iterdir()] == ["hash.erofs"]


async def test_what_nobody_needs_goes_and_half_made_copies_too(pins: Pins, tmp_path: Path) -> None:
    kept = await pins.pin(tmp_path / "image", "kept")
    await pins.pin(tmp_path / "image", "gone")
    (kept.parent / "torn.partial").write_bytes(b"i")

    async def needed() -> set[str]:
        return {"kept"}

    assert sorted(await pins.keep_only(needed)) == ["gone", "torn"]
    assert list(kept.parent.iterdir()) == [kept]
