"""The node's directories: one daemon each, a lasting id, clear errors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hutch.node.home import NodeHome, StartError, write_atomic
from hutch.settings import Settings

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the node runs as root only")


@pytest.fixture
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    root = tmp_path_factory.mktemp("home")  # on a disk: in memory it need mount none
    return Settings(data_dir=root / "data", run_dir=root / "run")


@pytest.fixture
def home(settings: Settings) -> Iterator[NodeHome]:
    home = NodeHome(settings)
    home.open()
    yield home
    home.close()


def test_a_second_daemon_is_refused_and_the_first_one_s_id_lasts(settings: Settings, home: NodeHome) -> None:
    with pytest.raises(StartError, match="another node daemon"):
        NodeHome(settings).open()
    home.close()
    again = NodeHome(settings)
    again.open()
    assert again.id == home.id and len(home.id) == 4
    again.close()


def test_grants_lie_in_memory_and_the_mount_goes_with_the_last(settings: Settings, home: NodeHome) -> None:
    filesystems = {line.split()[1]: line.split()[2] for line in Path("/proc/mounts").read_text().splitlines()}
    below = [point for point in filesystems if str(home.grants).startswith(point)]
    assert filesystems[max(below, key=len)] == "tmpfs"
    kept = home.grants / "sbx.json"
    kept.write_text("{}")
    with pytest.raises(StartError):
        NodeHome(settings).open()
    home.close()
    assert home.grants.is_mount()
    kept.unlink()
    home.open()
    home.close()
    assert not home.grants.is_mount()


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError, match=r"cannot write .*/file"):
        NodeHome(Settings(data_dir=tmp_path / "file" / "data", run_dir=tmp_path / "run")).open()


def test_a_damaged_id_is_not_replaced_silently(settings: Settings, home: NodeHome) -> None:
    home.close()
    (settings.node_dir / "id").write_text("what?")
    with pytest.raises(StartError, match="does not hold a node id"):
        NodeHome(settings).open()


def test_write_atomic_replaces_whole(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_atomic(path, b"old and long")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"]
