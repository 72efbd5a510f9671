"""Local files as a tar stream."""

from __future__ import annotations

import io
import os
import socket
import tarfile
import tracemalloc
from pathlib import Path

import pytest

from hutch.sdk.tar import CHUNK, pack, size_of


def read(chunks: object) -> dict[str, tarfile.TarInfo]:
    data = b"".join(chunks)  # type: ignore[arg-type]
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {member.name: member for member in tar}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "repo"
    (root / "src").mkdir(parents=True)
    (root / "node_modules" / "left").mkdir(parents=True)
    (root / ".git").mkdir()
    (root / ".git" / "HEAD").write_text("ref")
    (root / "src" / "main.py").write_text("print()")
    (root / "src" / "run.sh").write_text("#!/bin/sh")
    (root / "src" / "run.sh").chmod(0o755)
    (root / "node_modules" / "left" / "pad.js").write_text("x")
    (root / "link").symlink_to("src/main.py")
    (root / "dead").symlink_to("nowhere")
    return root


def test_directory_is_packed_under_its_name(tree: Path) -> None:
    members = read(pack(tree, "repo"))
    assert set(members) >= {"repo", "repo/src", "repo/src/main.py", "repo/.git/HEAD", "repo/link", "repo/dead"}
    assert members["repo/src/run.sh"].mode == 0o755
    assert members["repo/link"].issym() and members["repo/link"].linkname == "src/main.py"


def test_bare_contents_have_no_leading_directory(tree: Path) -> None:
    members = read(pack(tree))
    assert "src/main.py" in members and not any(name.startswith("repo") for name in members)


def test_excluded_names_and_paths_are_left_out(tree: Path) -> None:
    members = read(pack(tree, "", ["node_modules/", "src/*.sh"]))
    assert not any("node_modules" in name or name.endswith(".sh") for name in members)
    assert "src/main.py" in members
    assert size_of(tree, ["node_modules"]) < size_of(tree)


def test_one_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"hello")
    assert read(pack(tmp_path / "a.txt"))["a.txt"].size == 5
    assert read(pack(tmp_path / "a.txt", "dir/b.txt"))["dir/b.txt"].size == 5


def test_link_to_a_directory_given_by_hand_means_the_directory(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(tree)
    assert "alias/src/main.py" in read(pack(tmp_path / "alias", "alias"))


def test_sockets_and_pipes_are_passed_over(tree: Path) -> None:
    os.mkfifo(tree / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tree / "sock"))
        members = read(pack(tree))
    assert "pipe" not in members and "sock" not in members


def test_long_and_strange_names_survive(tmp_path: Path) -> None:
    root = tmp_path / "r"
    root.mkdir()
    names = ["n" * 200, "ünï cödé\nline", "x" * 90]
    deep = root.joinpath(*["d" * 60] * 5)
    deep.mkdir(parents=True)
    (deep / "f").write_text("deep")
    for name in names:
        (root / name).write_text("x")
    members = read(pack(root))
    assert set(names) <= set(members)
    assert str(deep.relative_to(root) / "f") in members


def test_name_that_is_no_text_does_not_stop_the_rest(tmp_path: Path) -> None:
    root = tmp_path / "r"
    root.mkdir()
    with open(os.path.join(os.fsencode(root), b"bad\xff"), "wb"):
        pass
    (root / "good").write_text("x")
    assert "good" in read(pack(root))


@pytest.mark.parametrize("change", [-100_000, -1, 1, 700_000])
def test_file_that_changes_size_meanwhile_keeps_the_stream_whole(tmp_path: Path, change: int) -> None:
    root = tmp_path / "r"
    root.mkdir()
    (root / "a").write_bytes(b"a" * 600_000)
    (root / "b").write_bytes(b"b")
    chunks = pack(root)
    data = next(chunks)
    os.truncate(root / "a", 600_000 + change)
    data += b"".join(chunks)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert {member.name: member.size for member in tar} == {"a": 600_000, "b": 1}


def test_gigabytes_pass_without_being_held(tmp_path: Path) -> None:
    with open(tmp_path / "huge", "wb") as file:
        file.truncate(3 << 30)  # sparse
    tracemalloc.start()
    total = 0
    for index, chunk in enumerate(pack(tmp_path / "huge")):
        total += len(chunk)
        assert len(chunk) <= 2 * CHUNK
        if index > 400:  # 100 MiB are enough to see it
            break
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert total > 50 << 20 and peak < 4 << 20


def test_unreadable_file_is_an_error_before_its_header(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    (tmp_path / "secret").write_text("x")
    (tmp_path / "secret").chmod(0)
    with pytest.raises(PermissionError):
        list(pack(tmp_path / "secret"))
