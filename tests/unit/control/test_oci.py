"""Images of strangers: names, layouts, archives and layers, also hostile ones."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import zstandard
from tests.oci_image import blob, layout, member, tar

from hutch.control.oci import layers as reading
from hutch.control.oci.flatten import flatten, packed
from hutch.control.oci.layers import Budget, Layer, Member, plain, read_layer, unpack_blob
from hutch.control.oci.pulling import _layout
from hutch.control.oci.reference import Reference, parse_reference
from hutch.control.oci.source import Layout
from hutch.errors import HutchError, InputFailed, InvalidRequest, PayloadTooLarge
from hutch.node.disk import archive

MOST = 1 << 30


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("ubuntu", ("registry-1.docker.io", "library/ubuntu", "latest")),
        ("docker.io/some/thing:1.2", ("registry-1.docker.io", "some/thing", "1.2")),
        ("ghcr.io/a/b-c/d_e:x", ("ghcr.io", "a/b-c/d_e", "x")),
        ("localhost:5000/x", ("localhost:5000", "x", "latest")),
        (f"a.b/c:1@sha256:{'0' * 64}", ("a.b", "c", f"sha256:{'0' * 64}")),
    ],
)
def test_names_of_images(text: str, reference: tuple[str, str, str]) -> None:
    assert parse_reference(text) == Reference(*reference)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A",
        "a//b",
        "a/../b",
        "a:",
        "a:b c",
        "a@sha256:00",
        "http://a/b",
        "a.b/",
        "user@a.b/c",
        "a.b:x/c",
        "a\n",
        "é",
    ],
)
def test_what_names_no_image(text: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_reference(text)


@pytest.mark.parametrize("name", ["", "..", "a/../b", "/etc", "a//b", "none", "a\0"])
def test_layouts_are_the_operators_alone(tmp_path: Path, name: str) -> None:
    with pytest.raises(HutchError):
        _layout(tmp_path, name)
    with pytest.raises(InvalidRequest, match="no images of its own"):
        _layout(None, "a")


async def test_a_layout_is_read_and_checked(tmp_path: Path) -> None:
    wanted = layout(tmp_path / "image")
    source = _layout(tmp_path, "image:v1")
    manifest = await source.manifest()
    assert [layer.digest for layer in manifest.layers] == [each["digest"] for each in wanted["layers"]]
    config = await source.config(manifest)
    assert config.env["FROM_IMAGE"] == "yes"
    with pytest.raises(InputFailed, match="tag"):
        await _layout(tmp_path, "image:v2").manifest()
    path = tmp_path / "image/blobs/sha256" / manifest.layers[1].digest.removeprefix("sha256:")
    for change in (path.read_bytes()[:-1], path.read_bytes() + b"x", b"y" * path.stat().st_size):
        path.write_bytes(change)
        with pytest.raises(InputFailed, match="digest"):
            assert [piece async for piece in source.verified(manifest.layers[1])]


@pytest.mark.parametrize(
    "index",
    [
        b"not json",
        b"[" * 100_000,
        json.dumps({"manifests": [{"digest": "sha256:../../etc/passwd", "size": 1}]}).encode(),
        json.dumps({"manifests": [{"digest": "sha256:" + "0" * 64, "size": -1}]}).encode(),
        json.dumps({"manifests": []}).encode(),
    ],
)
async def test_an_index_that_is_none(tmp_path: Path, index: bytes) -> None:
    (tmp_path / "index.json").write_bytes(index)
    with pytest.raises(InputFailed):
        await Layout(tmp_path, None, "it").manifest()


async def test_an_image_for_other_machines_only(tmp_path: Path) -> None:
    (tmp_path / "blobs/sha256").mkdir(parents=True)
    other = {"platform": {"architecture": "arm64", "os": "linux"}}
    inner = {"manifests": [{"digest": "sha256:" + "0" * 64, "size": 1} | other]}
    top = blob(tmp_path, json.dumps(inner).encode(), "application/vnd.oci.image.index.v1+json")
    (tmp_path / "index.json").write_text(json.dumps({"manifests": [top]}))
    with pytest.raises(InputFailed, match="linux/amd64"):
        await Layout(tmp_path, None, "it").manifest()


def read(tmp_path: Path, *archives: bytes) -> list[Layer]:
    found, budget = [], Budget(MOST)
    for number, data in enumerate(archives):
        (tmp_path / str(number)).write_bytes(data)
        found.append(read_layer(tmp_path / str(number), number, budget))
    return found


def test_layers_over_one_another(tmp_path: Path) -> None:
    lower = tar(
        *(member(name, b"lower") for name in ("a", "b", "d/x", "d/y", "e/x", "f", "g/x", "h")),
        member("link", type=tarfile.SYMTYPE, linkname="a"),
        member("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3),
    )
    upper = tar(
        member("a", b"upper"),
        member(".wh.b"),
        member("d/.wh..wh..opq"),
        member("d/z", b"upper"),
        member(".wh.e"),
        member("f", type=tarfile.DIRTYPE, mode=0o700),
        member("g", b"a file now"),
        member("hard", type=tarfile.LNKTYPE, linkname="./h"),
    )
    tree = flatten(read(tmp_path, lower, upper))
    found = {
        path: each.kind
        for path, each in tree.items()
        if path not in ("dev", "etc", "proc", "run", "sys", "tmp", "root")
    }
    kinds = {"a": "file", "d": "directory", "d/z": "file", "f": "directory", "g": "file", "h": "file", "hard": "file"}
    assert found == kinds | {"link": "symlink"}
    assert (tree["a"].layer, tree["hard"]) == (1, tree["h"])
    assert tree["tmp"].mode == 0o1777


def test_what_is_removed_and_made_again_in_one_layer(tmp_path: Path) -> None:
    lower = tar(member("d/x", b"lower"))
    upper = tar(member(".wh.d"), member("d", type=tarfile.DIRTYPE, mode=0o711), member("d/y", b"upper"))
    tree = flatten(read(tmp_path, lower, upper))
    assert "d/x" not in tree and tree["d"].mode == 0o711 and tree["d/y"].layer == 1


def stream(tree: dict[str, Member], archives: Sequence[Path]) -> io.BytesIO:
    return io.BytesIO(b"".join(packed(tree, archives, {"etc/resolv.conf": b"ours", "tmp/.hutch": b""})))


def test_the_node_takes_what_comes_of_it(tmp_path: Path) -> None:
    big = bytes(range(256)) * 3000
    layer = tar(
        member("b", big, mode=0o4755, uid=3, gid=4, mtime=9),
        member("a", type=tarfile.LNKTYPE, linkname="b"),
        member("c-\udcff", b"odd"),
        member("p", type=tarfile.FIFOTYPE),
        member("etc/resolv.conf", b"theirs"),
    )
    tree = flatten(read(tmp_path, layer))
    into = tmp_path / "kept"
    into.mkdir()
    manifest = archive.write(stream(tree, [tmp_path / "0"]), into, MOST)
    entries = {entry["path"]: entry for entry in archive.read_index(into)}
    assert len(entries) == manifest.entries
    assert entries["b"]["target"] == "a" and archive.content(into, entries["a"]) == big
    assert (entries["a"]["mode"], entries["a"]["uid"], entries["a"]["mtime"]) == (0o4755, 3, 9_000_000_000)
    assert archive.content(into, entries["etc/resolv.conf"]) == b"ours" and entries["p"]["type"] == "fifo"


@pytest.mark.parametrize(
    "members",
    [
        [member("../x", b"")],
        [member("a/../../x", b"")],
        [member("a", type=tarfile.LNKTYPE, linkname="../../etc/passwd")],
        [member("a", type=tarfile.LNKTYPE, linkname="none")],
        [member("l", type=tarfile.SYMTYPE, linkname="/etc"), member("l/x", b"")],
        [member(".wh...", b"")],
        [member(".wh.", b"")],
        [member("x" * 256, b"")],
        [member("/".join(["x" * 200] * 25), b"")],
        [member("tmp", b"no directory"), member("tmp/x", b"")],
        [member("l", type=tarfile.SYMTYPE, linkname="")],
    ],
)
def test_archives_that_lead_elsewhere(tmp_path: Path, members: list[Any]) -> None:
    with pytest.raises(HutchError):
        flatten(read(tmp_path, tar(*members)))


def test_absolute_names_are_below_the_root() -> None:
    assert plain("/etc//./passwd") == "etc/passwd" and plain("./") == ""
    with pytest.raises(InputFailed):
        plain("a\0")


@pytest.mark.parametrize("data", [b"", b"x" * 600, tar(member("a", b"abc"))[:700], b"\x00" * 3])
def test_archives_that_are_none(tmp_path: Path, data: bytes) -> None:
    try:
        (found,) = read(tmp_path, data)
    except InputFailed:
        return
    with pytest.raises(InputFailed):  # cut off in a file's content
        list(packed(flatten([found]), [tmp_path / "0"], {}))


def test_headers_that_would_fill_memory(tmp_path: Path) -> None:
    for kind in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE):
        with pytest.raises(InputFailed):
            read(tmp_path, tar(member("x", bytes(2 << 20), type=kind)))


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.ZstdCompressor().compress, bytes])
def test_compressions_and_their_bombs(tmp_path: Path, compress: Any) -> None:
    data = bytes(40 << 20)
    (tmp_path / "blob").write_bytes(compress(data))
    unpack_blob(tmp_path / "blob", tmp_path / "out", Budget(MOST))
    assert (tmp_path / "out").read_bytes() == data
    with pytest.raises(PayloadTooLarge):
        unpack_blob(tmp_path / "blob", tmp_path / "out", Budget(len(data) - 1))
    if compress is gzip.compress:
        (tmp_path / "blob").write_bytes(compress(data)[:-5])
        with pytest.raises(InputFailed):
            unpack_blob(tmp_path / "blob", tmp_path / "out", Budget(MOST))


def test_several_gzip_members_follow_one_another(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(gzip.compress(b"one") + gzip.compress(b"two"))
    unpack_blob(tmp_path / "blob", tmp_path / "out", Budget(MOST))
    assert (tmp_path / "out").read_bytes() == b"onetwo"


def test_an_image_has_so_many_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MOST_ENTRIES", 3)
    with pytest.raises(PayloadTooLarge):
        read(tmp_path, tar(*(member(f"x{n}") for n in range(4))))


def test_the_stream_is_the_guests_own_form(tmp_path: Path) -> None:
    lines = stream(flatten(read(tmp_path, tar(member("x", b"abc")))), [tmp_path / "0"]).getvalue()
    assert struct.pack(">QI", 0, 3) + b"abc" + struct.pack(">QI", 0, 0) in lines


def test_directories_that_nobody_names_are_bounded_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 000 long paths that share nothing would be 32 million directories."""
    with pytest.raises(InputFailed, match="in one another"):
        plain("a/" * 129)
    monkeypatch.setattr(reading, "_MOST_NAMES", 1 << 20)
    layer = Layer()
    layer.members = {f"{n}/{'a/' * 100}b": Member("file", 0o644, 0, 0, 0) for n in range(200)}
    with pytest.raises(PayloadTooLarge):
        flatten([layer])


def test_a_folder_that_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def is_file(path: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_file", is_file)
    with pytest.raises(InputFailed, match="cannot be read: Permission denied"):
        _layout(tmp_path, "closed")
