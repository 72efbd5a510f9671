"""What `runsc` is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hutch.model import Resources
from hutch.network.base import Slot
from hutch.runtime import oci
from hutch.runtime.base import SandboxSpec
from hutch.runtime.gvisor import GvisorRuntime


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    spec = SandboxSpec(
        id="sbx_x",
        image=Path("/images/a.erofs"),
        resources=Resources(cpus=1, memory_mib=512, disk_mib=1024, pids=100),
        slot=Slot(3, "hutch-ab12-3", "hab12x3", "10.200.0.13", "10.200.0.14", 30),
        hostname="box",
        directory=tmp_path,
        env={"A": "b", "PYTHONHOME": "/elsewhere"},
    )
    oci.write_bundle(spec, tmp_path / "bundle", tmp_path / "disk")
    loaded: dict[str, Any] = json.loads((tmp_path / "bundle" / "config.json").read_text())
    return loaded


def test_the_root_is_the_image_and_read_only(config: dict[str, Any]) -> None:
    assert config["root"]["readonly"] is True
    assert list(Path(config["root"]["path"]).iterdir()) == []
    assert config["annotations"]["dev.gvisor.spec.rootfs.source"] == "/images/a.erofs"
    assert config["annotations"]["dev.gvisor.spec.rootfs.type"] == "erofs"


def test_written_files_have_a_ceiling(config: dict[str, Any]) -> None:
    (disk,) = [mount for mount in config["mounts"] if mount["destination"] == oci.DISK_MOUNT]
    assert config["annotations"]["dev.gvisor.spec.mount.disk.source"] == disk["source"]
    assert "size=1024m" in config["annotations"]["dev.gvisor.spec.mount.disk.options"]
    assert f"HUTCH_DISK={oci.DISK_MOUNT}" in config["process"]["env"]


def test_no_host_directory_is_mounted_but_the_disks(config: dict[str, Any]) -> None:
    assert [mount["destination"] for mount in config["mounts"] if mount["type"] == "bind"] == [oci.DISK_MOUNT]


def test_raw_sockets_are_nobodys_by_default(config: dict[str, Any]) -> None:
    for kind in ("bounding", "effective", "permitted", "inheritable"):
        assert "CAP_NET_RAW" not in config["process"]["capabilities"][kind]
    assert "ambient" not in config["process"]["capabilities"]


def test_the_environment_cannot_redirect_the_guests_python(config: dict[str, Any]) -> None:
    environment = dict(line.split("=", 1) for line in config["process"]["env"])
    assert environment["A"] == "b"
    assert environment["PYTHONHOME"] == "/.hutch/python"


def test_a_state_directory_too_long_for_sockets_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="too long"):
        GvisorRuntime("runsc", Path("/" + "x" * 80), "ab12")
