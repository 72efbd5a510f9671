"""Files in and out of a real guest."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hutch_guest.files.extract import stays_inside
from hutch_guest.files.globs import compile_pattern, find
from tests.unit.guest.client import TOKEN, Guest, eventually

root = pytest.mark.skipif(os.getuid() != 0, reason="needs root")


def put(guest: Guest, path: str | Path, data: bytes, **query: Any) -> Any:
    return guest.call("PUT", "/hutch/files", data, path=path, **query)


def get(guest: Guest, path: str | Path, **headers: str) -> Any:
    return guest.call("GET", "/hutch/files", None, headers, path=path)


def test_write_and_read(guest: Guest, tmp_path: Path) -> None:
    data = os.urandom(5_000_000)
    reply = put(guest, tmp_path / "a" / "b" / "file.bin", data, mode="600")
    assert reply.status == 200
    assert (reply.json["name"], reply.json["type"], reply.json["size"]) == ("file.bin", "file", len(data))
    assert (tmp_path / "a/b/file.bin").stat().st_mode & 0o7777 == 0o600
    assert get(guest, tmp_path / "a/b/file.bin").body == data
    assert os.listdir(tmp_path / "a/b") == ["file.bin"]


def test_rewriting_keeps_the_mode_and_follows_a_link(guest: Guest, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("old")
    script.chmod(0o755)
    (tmp_path / "link").symlink_to(script)
    assert put(guest, tmp_path / "link", b"new").status == 200
    assert script.read_text() == "new"
    assert script.stat().st_mode & 0o7777 == 0o755
    assert (tmp_path / "link").is_symlink()


def test_writing_at_an_offset(guest: Guest, tmp_path: Path) -> None:
    put(guest, tmp_path / "file", b"0123456789")
    put(guest, tmp_path / "file", b"abc", offset=4)
    assert get(guest, tmp_path / "file").body == b"0123abc789"


def test_ranges(guest: Guest, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    for asked, status, body in [
        ("bytes=2-4", 206, b"234"),
        ("bytes=7-", 206, b"789"),
        ("bytes=-3", 206, b"789"),
        ("bytes=5-100", 206, b"56789"),
        ("bytes=-100", 206, b"0123456789"),
        ("lines=1-2", 200, b"0123456789"),
    ]:
        reply = get(guest, tmp_path / "file", Range=asked)
        assert (reply.status, reply.body) == (status, body)
    assert get(guest, tmp_path / "file", Range="bytes=2-4").headers["Content-Range"] == "bytes 2-4/10"
    assert get(guest, tmp_path / "file", Range="bytes=10-").status == 416


def test_a_quarter_of_a_gigabyte_both_ways_in_little_memory(guest: Guest, tmp_path: Path) -> None:
    size, block = 1 << 28, bytes(range(256)) * 4096
    before = guest.memory()
    blocks = (block for _ in range(size // len(block)))
    connection = guest.connect()
    headers = {"X-Access-Token": TOKEN, "Content-Length": str(size)}
    connection.request("PUT", f"/hutch/files?path={tmp_path}/big", blocks, headers)
    assert connection.getresponse().status == 200
    assert guest.memory() - before < 24 << 20
    connection.close()
    connection.request("GET", f"/hutch/files?path={tmp_path}/big", headers={"X-Access-Token": TOKEN})
    response, digest, wanted = connection.getresponse(), hashlib.sha1(), hashlib.sha1()
    while data := response.read(1 << 20):
        digest.update(data)
    for _ in range(size // len(block)):
        wanted.update(block)
    connection.close()
    assert digest.digest() == wanted.digest()
    assert guest.memory() - before < 24 << 20
    (tmp_path / "big").unlink()


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/no/such/file", 404, "file_not_found"),
        ("/", 400, "invalid_path"),
        ("/etc", 400, "invalid_path"),
        ("/etc/passwd/x", 400, "invalid_path"),
        ("/dev/zero", 400, "invalid_path"),
        ("/a\0b", 400, "invalid_path"),
        ("~nobody/x", 400, "invalid_path"),
        ("/" + "x" * 300, 400, "invalid_path"),
        ("/x" * 3000, 400, "invalid_path"),
        ("", 400, "invalid_request"),
    ],
)
def test_bad_paths(guest: Guest, path: str, status: int, code: str) -> None:
    reply = guest.call("GET", "/hutch/files", path=path)
    assert (reply.status, reply.json["code"]) == (status, code)


def test_bad_targets(guest: Guest, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, f"{tmp_path}/", f"{tmp_path}/new/", tmp_path / "file" / "below", "/a\0b"):
        reply = put(guest, path, b"x")
        assert (reply.status, reply.json["code"]) == (400, "invalid_path")
    for query in ({"mode": "9"}, {"mode": "77777"}, {"offset": "-1"}, {"user": "nemo"}):
        assert put(guest, tmp_path / "y", b"x", **query).status == 400
    assert sorted(os.listdir(tmp_path)) == ["file"]


def test_names_with_newlines_dots_and_no_utf8(guest: Guest, tmp_path: Path) -> None:
    for name in (b"new\nline", b"\xff\xfe", b"..hidden", b"a b%20c"):
        path = os.fsencode(tmp_path) + b"/sub/../" + name
        reply = guest.call("PUT", "/hutch/files", b"x", path=path)
        assert reply.status == 200, reply.body
        assert guest.call("GET", "/hutch/files", path=path).body == b"x"
        assert os.path.exists(os.fsencode(tmp_path) + b"/" + name)


@root
def test_files_belong_to_the_user(guest: Guest, tmp_path: Path) -> None:
    put(guest, tmp_path / "dir" / "file", b"x", user="nobody")
    assert (tmp_path / "dir").stat().st_uid == (tmp_path / "dir/file").stat().st_uid == 65534
    assert tmp_path.stat().st_uid == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@root
def test_what_does_not_fit_is_refused_and_leaves_nothing(guest: Guest, small_disk: Path) -> None:
    announced = put(guest, small_disk / "file", bytes(20 << 20))
    assert (announced.status, announced.json["code"]) == (507, "disk_full")
    chunks = iter([bytes(1 << 20)] * 20)
    connection = guest.connect()
    headers = {"X-Access-Token": TOKEN, "Transfer-Encoding": "chunked"}
    connection.request("PUT", f"/hutch/files?path={small_disk}/file", chunks, headers, encode_chunked=True)
    assert connection.getresponse().status == 507
    connection.close()
    archive = make_tar({"a/b/file": bytes(6 << 20), "a/c/file": bytes(6 << 20)})
    assert guest.call("POST", "/hutch/extract", archive, path=small_disk).status == 507
    assert os.listdir(small_disk) == []
    assert put(guest, small_disk / "file", b"small").status == 200


@root
def test_output_to_a_full_disk_waits_and_goes_on(tmp_path: Path, small_disk: Path) -> None:
    guest = Guest(tmp_path, "--spool-dir", str(small_disk / "spool"))
    try:
        (small_disk / "ballast").write_bytes(bytes(7 << 20))
        id = guest.start("head", "-c", "4000000", "/dev/zero", retain="all")["id"]
        eventually(lambda: guest.state(id)["output_end"] > 500_000)
        assert guest.run("echo", "small output needs no disk")[0]
        assert guest.state(id)["running"]
        (small_disk / "ballast").unlink()
        assert sum(len(data) for kind, _, data in guest.frames(id) if kind == 1) == 4_000_000
    finally:
        assert guest.close() == ""


# archives


def make_tar(files: dict[str, bytes], *members: tarfile.TarInfo) -> bytes:
    out = io.BytesIO()
    with tarfile.open(mode="w", fileobj=out) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode, member.mtime = len(data), 0o4755, 1_000_000_000
            archive.addfile(member, io.BytesIO(data))
        for member in members:
            archive.addfile(member)
    return out.getvalue()


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def test_extract(guest: Guest, tmp_path: Path) -> None:
    device = tarfile.TarInfo("dev")
    device.type, device.devmajor, device.devminor = tarfile.CHRTYPE, 1, 3
    archive = make_tar(
        {"top": b"1", "./a/b/deep": b"22", "a/empty": b""},
        link("a/inner", "../top"),
        link("a/hard", "top", tarfile.LNKTYPE),
        link("out1", "/etc/passwd"),
        link("a/out2", "../../x"),
        link("out3", "a/../../x"),
        link("out4", "../../etc/passwd", tarfile.LNKTYPE),
        device,
    )
    reply = guest.call("POST", "/hutch/extract", archive, path=tmp_path / "new")
    assert reply.status == 200
    assert reply.json == {
        "files": 5,
        "bytes": 3,
        "skipped": ["out1", "a/out2", "out3", "out4", "dev"],
        "skipped_count": 5,
    }
    new = tmp_path / "new"
    assert sorted(str(path.relative_to(new)) for path in new.rglob("*")) == [
        *("a", "a/b", "a/b/deep", "a/empty", "a/hard", "a/inner", "top")
    ]
    assert (new / "a/inner").read_bytes() == b"1"
    found = (new / "top").stat()
    assert (found.st_mode & 0o7777, found.st_mtime) == (0o755, 1_000_000_000)


@pytest.mark.parametrize("name", ["/etc/evil", "../evil", "a/../../evil", "a/.."])
def test_unsafe_names_refuse_the_whole_archive(guest: Guest, tmp_path: Path, name: str) -> None:
    reply = guest.call("POST", "/hutch/extract", make_tar({"good": b"x", name: b"y"}), path=tmp_path / "new")
    assert (reply.status, reply.json["code"]) == (400, "invalid_path")
    assert os.listdir(tmp_path / "new") == []


def test_archives_that_are_none_or_are_cut(guest: Guest, tmp_path: Path) -> None:
    whole = make_tar({"a": bytes(100_000), "b": b"x"})
    for body in (b"not a tar" * 200, whole[:50_000], b"\x1f\x8b\x08\x00garbage"):
        reply = guest.call("POST", "/hutch/extract", body, path=tmp_path / "new")
        assert (reply.status, reply.json["code"]) == (400, "invalid_request")
        assert os.listdir(tmp_path / "new") == []
    huge = tarfile.TarInfo("x")
    huge.type, huge.size = tarfile.XHDTYPE, 1 << 40
    assert guest.call("POST", "/hutch/extract", huge.tobuf() + bytes(5000), path=tmp_path / "new").status == 400


def test_an_archive_does_not_write_through_links(guest: Guest, tmp_path: Path) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    (inside / "door").symlink_to(outside)
    (outside / "file").write_text("kept")
    (inside / "file").symlink_to(outside / "file")
    reply = guest.call("POST", "/hutch/extract", make_tar({"door/evil": b"x"}), path=inside)
    assert (reply.status, reply.json["code"]) == (400, "invalid_path")
    assert guest.call("POST", "/hutch/extract", make_tar({"file": b"new"}), path=inside).status == 200
    assert (outside / "file").read_text() == "kept"
    assert os.listdir(outside) == ["file"]
    archive = make_tar({}, link("sub", "."), link("sub2", ".."))
    assert guest.call("POST", "/hutch/extract", archive, path=inside).json["skipped"] == ["sub2"]


def test_links_swapped_in_during_the_extract_gain_nothing(guest: Guest, tmp_path: Path) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    archive = make_tar({f"d{n % 3}/f{n}": b"x" for n in range(600)})
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for number in range(3):
                try:
                    os.rename(inside / f"d{number}", inside / f"moved{os.urandom(4).hex()}")
                    os.symlink(outside, inside / f"d{number}")
                    os.unlink(inside / f"d{number}")
                except OSError:
                    continue

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for _ in range(5):
            guest.call("POST", "/hutch/extract", archive, path=inside)
    finally:
        stop.set()
        thread.join()
    assert os.listdir(outside) == []


@pytest.mark.parametrize(
    ("target", "depth", "inside"),
    [
        ("x", 0, True),
        ("../x", 1, True),
        ("../x", 0, False),
        ("/x", 5, False),
        ("a/../b", 3, False),
        ("", 0, False),
        ("..", 1, True),
        ("../../..", 2, False),
        ("./a", 0, True),
    ],
)
def test_where_links_may_lead(target: str, depth: int, inside: bool) -> None:
    assert stays_inside(target, depth) is inside


def test_collect(guest: Guest, tmp_path: Path) -> None:
    for name in ("a.md", "b.txt", "src/x.py", "src/deep/y.py", "src/deep/z.md", "out/1", "out/sub/2"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "out" / "link").symlink_to("/etc/passwd")
    (tmp_path / "out" / "loop").symlink_to("..")
    os.mkfifo(tmp_path / "out" / "pipe")

    def collect(*globs: str, **options: Any) -> list[str]:
        reply = guest.call("POST", "/hutch/collect", {"base": str(tmp_path), "globs": list(globs), **options})
        assert reply.status == 200, reply.body
        with tarfile.open(fileobj=io.BytesIO(reply.body)) as archive:
            for member in archive:
                if member.isfile():
                    assert archive.extractfile(member).read().decode() == member.name  # type: ignore[union-attr]
            return archive.getnames()

    assert collect("*.md") == ["a.md"]
    assert collect("**/*.md") == ["a.md", "src/deep/z.md"]
    assert collect("src/**/*.py") == ["src/deep/y.py", "src/x.py"]
    assert collect("out") == ["out/1", "out/link", "out/loop", "out/sub/2"]
    assert collect("out/", "b.tx?", "[a-b].md") == ["a.md", "b.txt", "out/1", "out/link", "out/loop", "out/sub/2"]
    assert collect(f"{tmp_path}/src/x.py") == ["src/x.py"]
    assert collect("none*", "[") == []
    for pattern in ("../x", "/etc/*", "a/../../b"):
        assert guest.call("POST", "/hutch/collect", {"base": str(tmp_path), "globs": [pattern]}).status == 400
    reply = guest.call("POST", "/hutch/collect", {"base": str(tmp_path), "globs": ["**"], "max_bytes": 10})
    assert (reply.status, reply.json["code"]) == (413, "payload_too_large")


def test_what_was_extracted_can_be_collected(guest: Guest, tmp_path: Path) -> None:
    files = {f"d{n}/{'long' * 40}{n}-ü": os.urandom(n * 7919) for n in range(40)}
    assert guest.call("POST", "/hutch/extract", make_tar(files), path=tmp_path).status == 200
    reply = guest.call("POST", "/hutch/collect", {"base": str(tmp_path), "globs": ["**"]})
    with tarfile.open(fileobj=io.BytesIO(reply.body)) as archive:
        back = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    assert back == files


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("*.py", ["a.py", ".py", "a.py/inside"], ["a/b.py", "apy"]),
        ("a/**", ["a/b", "a/b/c"], ["a", "ab"]),
        ("**/x", ["x", "a/x", "a/b/x", "x/y"], ["ax", "a/xb"]),
        ("a/**/b", ["a/b", "a/x/y/b"], ["ab"]),
        ("[!a]?", ["bx", "b("], ["ax", "b"]),
        ("[z-a", ["[z-a"], ["z"]),
        ("a+b(c)", ["a+b(c)"], ["aab(c)"]),
    ],
)
def test_patterns(pattern: str, matching: list[str], others: list[str]) -> None:
    matcher = compile_pattern(pattern)
    assert all(matcher.match(path) for path in matching)
    assert not any(matcher.match(path) for path in others)


def test_find_skips_what_is_gone(tmp_path: Path) -> None:
    assert find(str(tmp_path / "missing"), ["**"]) == []
