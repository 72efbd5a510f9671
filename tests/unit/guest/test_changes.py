"""What was written since the image: listed, packed, put back. The layers are plain directories here."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import stat
import struct
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hutch_guest.api import changes
from hutch_guest.changes import CHILD
from hutch_guest.changes.walk import OPAQUE
from hutch_guest.errors import Conflict
from hutch_guest.guest import Guest
from hutch_guest.http.messages import Request

ODD = os.fsdecode(b"odd \n \xff name")


class Layers:
    """An image, what was written over it, and a fresh copy of the image."""

    def __init__(self, root: Path) -> None:
        self.image, self.written, self.fresh = root / "image", root / "written", root / "fresh"
        for path in (self.image, self.written):
            path.mkdir()

    def child(self, mode: str, source: bytes = b"") -> bytes:
        self_fresh = str(self.fresh if self.fresh.exists() else self.image)
        argv = [sys.executable, CHILD, mode, str(self.written), str(self.image), self_fresh]
        return subprocess.run(argv, input=source, stdout=subprocess.PIPE, timeout=60, check=False).stdout

    def pack(self) -> bytes:
        return self.child("pack")

    def listing(self) -> dict[str, tuple[Any, Any]]:
        lines = [json.loads(line) for line in self.child("list").splitlines()]
        assert lines[-1] == {"end": True, "entries": len(lines) - 1}
        return {line["path"]: (line["now"], line["was"]) for line in lines[:-1]}

    def restore(self, stream: bytes) -> dict[str, Any]:
        shutil.copytree(self.image, self.fresh, symlinks=True)
        return json.loads(self.child("restore", stream))  # type: ignore[no-any-return]

    def whiteout(self, path: str) -> None:
        os.mknod(self.written / path, stat.S_IFCHR, os.makedev(0, 0))

    def opaque(self, path: str) -> None:
        try:
            os.setxattr(self.written / path, OPAQUE, b"y")
        except OSError:
            pytest.skip("trusted attributes cannot be set here")


@pytest.fixture
def layers(tmp_path: Path) -> Layers:
    return Layers(tmp_path)


def test_what_was_written_is_put_back_exactly(layers: Layers) -> None:
    (layers.image / "kept").write_text("kept")
    (layers.image / "changed").write_text("before")
    home = layers.written / "home"
    home.mkdir(mode=0o750)
    (home / "file").write_bytes(os.urandom(700_000))
    (home / "file").chmod(0o4751)
    os.link(home / "file", home / "second")
    os.symlink("/etc/passwd", home / "link")
    os.mkfifo(home / "fifo", 0o622)
    (home / ODD).write_text("odd")
    (home / "empty").touch()
    os.setxattr(home / "file", "user.colour", b"\0red")
    with (home / "sparse").open("wb") as file:
        file.truncate(5 << 20)
        file.seek(3 << 20)
        file.write(b"x")
    (layers.written / "changed").write_text("after!")
    os.utime(home / "file", ns=(10**18 + 1, 10**18 + 1))
    os.utime(home, ns=(10**18 + 2, 10**18 + 2))

    stream = layers.pack()
    assert len(stream) < 2 << 20  # the hole was left out
    assert layers.restore(stream) == {"restored": 9}

    fresh = layers.fresh / "home"
    assert (layers.fresh / "kept").read_text() == "kept"
    assert (layers.fresh / "changed").read_text() == "after!"
    for name in ("file", ODD, "empty", "sparse"):
        assert (fresh / name).read_bytes() == (home / name).read_bytes()
    ours, theirs = (fresh / "file").stat(), (home / "file").stat()
    assert (ours.st_mode, ours.st_uid, ours.st_mtime_ns) == (theirs.st_mode, theirs.st_uid, 10**18 + 1)
    assert os.getxattr(fresh / "file", "user.colour") == b"\0red"
    assert (fresh / "second").samefile(fresh / "file")
    assert os.readlink(fresh / "link") == "/etc/passwd"
    assert stat.S_ISFIFO((fresh / "fifo").lstat().st_mode)
    assert (stat.S_IMODE(fresh.stat().st_mode), fresh.stat().st_mtime_ns) == (0o750, 10**18 + 2)


def test_what_was_removed_or_made_anew_is_so_afterwards(layers: Layers) -> None:
    for path in ("tree/a/b", "anew/old", "becomes/a-file"):
        (layers.image / path).parent.mkdir(parents=True)
        (layers.image / path).write_text("image")
    (layers.image / "gone").write_text("image")
    layers.whiteout("gone")
    layers.whiteout("tree")
    (layers.written / "becomes").write_text("a file now")
    (layers.written / "anew").mkdir()
    layers.opaque("anew")
    (layers.written / "anew/new").write_text("new")
    found = layers.listing()
    assert [path for path, (now, _) in found.items() if now is None] == [
        *("anew/old", "becomes/a-file", "gone", "tree", "tree/a", "tree/a/b")
    ]
    assert "restored" in layers.restore(layers.pack())
    assert sorted(os.listdir(layers.fresh)) == ["anew", "becomes"]
    assert os.listdir(layers.fresh / "anew") == ["new"]
    assert (layers.fresh / "becomes").read_text() == "a file now"


def test_what_was_only_touched_is_not_listed(layers: Layers) -> None:
    for name, text in (("touched", "same"), ("edited", "same"), ("mode", "same")):
        (layers.image / name).write_text(text)
        (layers.written / name).write_text(text)
        os.utime(layers.written / name, (1, 1))
    (layers.written / "edited").write_text("emas")
    (layers.written / "mode").chmod(0o600)
    (layers.written / "new").write_text("new")
    found = layers.listing()
    assert sorted(found) == ["edited", "mode", "new"]
    assert found["new"][1] is None
    assert found["edited"][0]["size"] == found["edited"][1]["size"] == 4
    assert found["mode"][0]["mode"] == 0o600


def test_our_own_files_are_neither_packed_nor_put_back(layers: Layers) -> None:
    for path in (".hutch/app", ".hutch-run", "proc", "run/hutch", "etc"):
        (layers.written / path).mkdir(parents=True)
    (layers.written / ".hutch/app/run").write_text("evil")
    (layers.written / "etc/hosts").write_text("theirs")
    (layers.written / "run/hutch/boot_id").write_text("old")
    assert sorted(layers.listing()) == ["etc", "run"]
    assert "restored" in layers.restore(layers.pack())
    for path in (".hutch/x", "proc/x", "etc/hosts"):
        entry = {"path": path, "type": "symlink", "target": "x", "uid": 0, "gid": 0, "mode": 0, "mtime": 0}
        shutil.rmtree(layers.fresh)
        assert "error" in layers.restore(json.dumps(entry).encode() + b"\n")


@pytest.mark.parametrize("path", ["../out", "link/out", "", "a/../../out", "/out", "a//b", "missing/out"])
def test_a_stream_cannot_leave_its_tree(layers: Layers, path: str, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    os.symlink(tmp_path / "elsewhere", layers.image / "link")
    (layers.image / "a").mkdir()
    entry = {"path": path, "type": "file", "size": 0, "uid": 0, "gid": 0, "mode": 0, "mtime": 0}
    stream = json.dumps(entry).encode() + b"\n" + struct.pack(">QI", 0, 0) + b'{"end":true,"entries":1}\n'
    assert "error" in layers.restore(stream)
    assert not (tmp_path / "out").exists() and not list((tmp_path / "elsewhere").iterdir())


def test_a_stream_that_is_cut_is_an_error(layers: Layers) -> None:
    (layers.written / "file").write_bytes(os.urandom(1000))
    stream = layers.pack()
    for length in (0, 10, len(stream) // 2, len(stream) - 3):
        assert "error" in layers.restore(stream[:length])
        shutil.rmtree(layers.fresh)


def test_files_are_read_from_either_layer(layers: Layers) -> None:
    (layers.image / "d").mkdir()
    (layers.written / "d").mkdir()
    (layers.image / "d/f").write_text("before")
    (layers.written / "d/f").write_text("after")
    os.symlink("/etc/passwd", layers.written / "d/link")
    wanted = [("d/f", "image"), ("d/f", "now"), ("d/link", "now"), ("missing", "now"), ("../../etc/passwd", "now")]
    request = {"files": [{"path": path, "layer": layer} for path, layer in wanted], "most": 6}
    answer = layers.child("read", json.dumps(request).encode())
    sizes = [json.loads(line)["size"] for line in answer.split(b"\n") if line.startswith(b'{"size"')]
    assert sizes[:1] == [6] and b"before" in answer and b"after" in answer
    assert answer.endswith(b'{"size":null}\n{"size":null}\n{"size":null}\n{"end":true,"entries":5}\n')


@pytest.mark.parametrize("meanwhile", ["its client goes", "it is told to go on"])
async def test_what_is_about_to_stand_still_goes_on_when(meanwhile: str, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []

    def start(_path: str, _argv: list[str], _environment: dict[str, str], files: tuple[int, int, int]) -> int:
        started.append(os.dup(files[0]))  # what the process waits for the end of
        time.sleep(0.2)
        return 1

    monkeypatch.setattr(changes.vfork, "start", start)
    guest = SimpleNamespace(layers_of_disk=SimpleNamespace(written=0, image=0), env={}, still=None, released=0)
    guest.go_on = lambda: Guest.go_on(cast(Guest, guest))
    request = cast(Request, SimpleNamespace(query={"still": "1"}))
    packing = asyncio.create_task(changes.pack(cast(Guest, guest), request))
    while not started:
        await asyncio.sleep(0.01)
    if meanwhile == "its client goes":
        packing.cancel()
    else:
        await changes.release(cast(Guest, guest), request)
    with pytest.raises((asyncio.CancelledError, Conflict)):
        await packing
    assert os.read(started[0], 1) == b""
    os.close(started[0])
