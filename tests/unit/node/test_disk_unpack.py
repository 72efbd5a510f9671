"""Layers out of kept disks, whatever these say."""

from __future__ import annotations

import io
import json
import os
import stat
import struct
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

from hutch.errors import TemplateBuildFailed
from hutch.node.disk import archive
from hutch.node.disk.unpack import unpack

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

MOST = 1 << 20


def made(kind: str, path: str, **more: Any) -> dict[str, Any]:
    return {"path": path, "type": kind, "mode": 0o755, "uid": 1000, "gid": 1000, "mtime": 7_000_000_000, **more}


def file(path: str, content: bytes = b"", size: int | None = None, **more: Any) -> tuple[dict[str, Any], bytes]:
    return made("file", path, size=len(content) if size is None else size, **more), content


def layer(tmp_path: Path, *entries: Any) -> Path:
    """The layer that these lead to."""
    packed = io.BytesIO(b"")
    packed.write(json.dumps({"env": {}}).encode() + b"\n")
    for entry in entries:
        entry, content = entry if isinstance(entry, tuple) else (entry, None)
        packed.write(json.dumps(entry).encode() + b"\n")
        if content is not None:
            packed.write((struct.pack(">QI", 0, len(content)) + content if content else b"") + struct.pack(">QI", 0, 0))
    packed.write(json.dumps({"end": True, "entries": len(entries)}).encode() + b"\n")
    packed.seek(0)
    source, into = tmp_path / "kept", tmp_path / "layer"
    source.mkdir()
    into.mkdir()
    archive.write(packed, source, 1 << 30)
    unpack(source, into, MOST)
    return into


def test_a_file_of_another_owner_keeps_its_capabilities(tmp_path: Path) -> None:
    some = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
    found = layer(tmp_path, file("a", b"x", xattrs={"security.capability": b64encode(some).decode()}))
    assert os.getxattr(found / "a", "security.capability") == some and (found / "a").stat().st_uid == 1000


def test_all_that_a_disk_has(tmp_path: Path) -> None:
    attribute = {"user.a": b64encode(b"1").decode(), "trusted.overlay.redirect": b64encode(b"/etc").decode()}
    found = layer(
        tmp_path,
        made("directory", "d", opaque=True, xattrs=attribute),
        file("d/a", b"content", mode=0o4755),
        made("hardlink", "d/b", target="d/a"),
        made("symlink", "d/l", target="/etc/passwd"),
        made("fifo", "d/p"),
        {"path": "gone", "type": "gone"},
        {"path": "hidden/x", "type": "hidden"},
        made("char", "d/null", device=[1, 3]),
        file("sparse", b"x", size=1 << 19),
    )
    status = (found / "d/a").stat()
    assert (found / "d/b").read_bytes() == b"content" and status.st_nlink == 2
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_mtime) == (0o4755, 1000, 7.0)
    assert os.readlink(found / "d/l") == "/etc/passwd" and stat.S_ISFIFO((found / "d/p").stat().st_mode)
    white = (found / "gone").lstat()
    assert stat.S_ISCHR(white.st_mode) and white.st_rdev == 0
    names = os.listxattr(found / "d")
    assert os.getxattr(found / "d", "trusted.overlay.opaque") == b"y"
    assert "user.a" in names and "trusted.overlay.redirect" not in names
    assert (found / "sparse").stat().st_size == 1 << 19
    assert sorted(os.listdir(found / "d")) == ["a", "b", "l", "p"]
    assert (found / "d").stat().st_mtime == 7.0


def test_what_is_not_a_layers_is_left_out(tmp_path: Path) -> None:
    entries = [made("directory", name) for name in (".hutch", ".hutch/app", "proc", "dev", "dev/x")]
    found = layer(tmp_path, *entries, {"path": "tmp/.hutch", "type": "gone"}, file("proc/x"))
    assert sorted(os.listdir(found)) == ["dev", "proc"] and os.listdir(found / "dev") == []


@pytest.mark.parametrize(
    "entries",
    [
        [made("symlink", "l", target="OUT"), file("l/x", b"out")],
        [made("symlink", "l", target="OUT"), made("directory", "l/x")],
        [made("symlink", "l", target="OUT"), made("directory", "d"), made("hardlink", "d/x", target="l/x")],
        [made("hardlink", "x", target="etc/passwd")],
        [file("d/x")],
        [file("x"), file("x", b"again")],
        [made("directory", "d"), made("directory", "d")],
        [file("x", b"1", size=MOST), file("y", b"1", size=1)],
    ],
)
def test_what_leads_elsewhere_or_is_too_much(tmp_path: Path, entries: list[Any]) -> None:
    with pytest.raises(TemplateBuildFailed):
        layer(tmp_path, *_leading_to(entries, tmp_path / "out"))
    assert os.listdir(tmp_path / "out") == []


def _leading_to(entries: list[Any], directory: Path) -> list[Any]:
    directory.mkdir()
    for entry in entries:
        if isinstance(entry, dict) and entry.get("target") == "OUT":
            entry["target"] = str(directory)
    return entries


def test_a_link_to_a_link_is_a_link(tmp_path: Path) -> None:
    found = layer(tmp_path, made("symlink", "l", target="/etc/passwd"), made("hardlink", "m", target="l"))
    assert os.readlink(found / "m") == "/etc/passwd"


def test_who_the_sandbox_of_the_steps_was_is_in_no_image(tmp_path: Path) -> None:
    found = layer(
        tmp_path,
        made("directory", "run"),
        made("directory", "run/hutch"),
        file("run/hutch/environment", b'{"A": "secret"}'),
        file("run/hutched", b"x"),
    )
    assert sorted(os.listdir(found / "run")) == ["hutch", "hutched"] and os.listdir(found / "run/hutch") == []
