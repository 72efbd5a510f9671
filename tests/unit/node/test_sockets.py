"""Who may speak to the node."""

from __future__ import annotations

import getpass
import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hutch.node.home import StartError
from hutch.node.sockets import listen


@pytest.fixture
def directory() -> Iterator[Path]:
    """One that everybody may enter, as `run_dir`, with a short path."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="hu-") as path:
        os.chmod(path, 0o755)
        yield Path(path)


def test_a_socket_is_for_its_owner_and_the_servers_group(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owners: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "chown", lambda path, uid, gid: owners.append((uid, gid)))
    before = os.umask(0)  # whatever the caller's is
    try:
        listener = listen(directory / "node.sock", getpass.getuser())
    finally:
        os.umask(before)
    with listener:
        mode = (directory / "node.sock").stat().st_mode
        assert stat.S_ISSOCK(mode) and stat.S_IMODE(mode) == 0o660
        assert owners == [(0, os.getgid())]


def test_without_the_servers_user_it_is_for_root_only(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "chown", lambda *owner: pytest.fail("there is no such group"))
    with listen(directory / "node.sock", "no-such-user-here"):
        assert stat.S_IMODE((directory / "node.sock").stat().st_mode) == 0o660


def test_what_a_dead_daemon_has_left_is_replaced_and_a_long_path_refused(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "chown", lambda *owner: None)
    path = directory / "node.sock"
    listen(path, getpass.getuser()).close()
    with listen(path, getpass.getuser()), socket.socket(socket.AF_UNIX) as client:
        client.connect(os.fspath(path))
    with pytest.raises(StartError, match="too long"):
        listen(directory / ("x" * 120), getpass.getuser())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become others")
def test_a_stranger_cannot_connect_and_the_server_can(directory: Path) -> None:
    path = directory / "node.sock"
    connect = f"import socket; socket.socket(socket.AF_UNIX).connect({os.fspath(path)!r})"
    with listen(path, "nobody"):
        group = path.stat().st_gid

        def fails(gid: int) -> bool:
            child = subprocess.run(
                [sys.executable, "-S", "-c", connect], user=65533, group=gid, extra_groups=[], capture_output=True
            )
            assert child.returncode == 0 or b"PermissionError" in child.stderr, child.stderr
            return child.returncode != 0

        assert fails(65533) and not fails(group)
