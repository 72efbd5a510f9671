"""The units that `hutch systemd` prints: read as systemd reads them, and judged by systemd itself where it is there."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from hutch.cli.systemd import units
from hutch.errors import InvalidRequest
from hutch.settings import Settings
from tests.unit.cli.conftest import Hutch

SERVER, NODE = "hutch-server.service", "hutch-node.service"


def service(text: str) -> dict[str, list[str]]:
    """The settings of a unit's [Service], each with all its values."""
    found: dict[str, list[str]] = {}
    section = ""
    for line in text.splitlines():
        if line.startswith("["):
            section = line
        elif section == "[Service]" and line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def test_the_server_may_do_nothing_but_serve() -> None:
    server = service(units(Settings(server_user="nobody"))[SERVER])
    assert server["User"] == ["nobody"] and server["CapabilityBoundingSet"] == server["AmbientCapabilities"] == [""]
    for name in ("NoNewPrivileges", "RestrictNamespaces", "RestrictSUIDSGID", "PrivateDevices", "ProtectKernelModules"):
        assert server[name] == ["yes"], name
    assert server["SystemCallFilter"] == ["@system-service", "~@privileged"]
    assert server["ProtectSystem"] == ["strict"]
    assert server["ReadWritePaths"] == ["/var/lib/hutch/server /run/hutch/server"]
    writes = [line for line in server["ExecStartPre"] if " -o nobody " in line]
    assert len(writes) == 2, "it owns these two and no other"


def test_stopping_the_node_leaves_its_sandboxes() -> None:
    node = service(units(Settings())[NODE])
    assert node["KillMode"] == ["process"] and node["Delegate"] == ["yes"] and "User" not in node


def test_settings_are_those_of_the_moment(tmp_path: Path) -> None:
    made = units(Settings(data_dir=tmp_path / "data", run_dir=tmp_path / "run", server_user="nobody"))
    for text in made.values():
        found = service(text)
        assert f"HUTCH_DATA_DIR={tmp_path}/data HUTCH_RUN_DIR={tmp_path}/run" in found["Environment"][0]
        assert found["EnvironmentFile"] == ["-/etc/hutch/environment"]
    with pytest.raises(InvalidRequest, match="cannot stand in a unit"):
        units(Settings(data_dir=Path("/var/lib/my hutch")))
    with pytest.raises(InvalidRequest, match="certificates"):
        units(Settings(domain="box.example.org", tls_self=True))


def test_they_are_written_where_they_are_wanted(tmp_path: Path, hutch: Hutch) -> None:
    assert "hutch-server.service" in hutch("systemd").out
    said = hutch("systemd", "--to", str(tmp_path))
    assert said.code == 0 and "daemon-reload" in said.err
    assert sorted(path.name for path in tmp_path.iterdir()) == [NODE, SERVER]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
def test_systemd_understands_them_and_finds_the_server_confined(tmp_path: Path) -> None:
    for name, text in units(Settings(server_user="daemon")).items():
        (tmp_path / name).write_text(text)
    names = [str(tmp_path / name) for name in (NODE, SERVER)]
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *names], capture_output=True, text=True, timeout=60
    )
    ours = [line for line in checked.stderr.splitlines() if "hutch-" in line]
    assert ours == [] and checked.returncode == 0, checked.stderr
    judged = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--no-pager", names[1]],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    exposure = re.search(r"Overall exposure level for \S+: ([0-9.]+)", judged.stdout)
    assert exposure is not None, judged.stderr
    assert float(exposure[1]) < 2.5, judged.stdout
