"""A tar from a sandbox is hostile: nothing is written outside the destination."""

from __future__ import annotations

import contextlib
import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hutch.errors import HutchError, InternalError, InvalidPath
from hutch.sdk.untar import unpack


def tar_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for info, data in members:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, mode
    return info


def pieces(data: bytes, size: int = 1000) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def everything(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def test_files_directories_and_links_are_made(tmp_path: Path) -> None:
    data = tar_of(
        (member("./a", tarfile.DIRTYPE), b""),
        (member("./a/b.txt"), b"hello"),
        (member("run", mode=0o4755), b"#!"),
        (member("l", tarfile.SYMTYPE, "a/b.txt"), b""),
    )
    seen: list[tuple[str, int]] = []
    written = unpack(pieces(data), tmp_path / "out", lambda name, size: seen.append((name, size)))
    assert written == ["./a/b.txt", "run"]
    assert seen == [("./a/b.txt", 5), ("run", 2)]
    assert (tmp_path / "out" / "l").read_text() == "hello"
    assert (tmp_path / "out" / "run").stat().st_mode & 0o7777 == 0o755, "executable, but not setuid"


@pytest.mark.parametrize("name", ["/etc/evil", "../evil", "a/../../evil", "a/../b"])
def test_names_that_lead_outside_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidPath):
        unpack(pieces(tar_of((member(name), b"x"))), tmp_path / "out")
    assert everything(tmp_path) <= {"out"}


@pytest.mark.parametrize("target", ["/etc", "..", "../..", "a/../../..", "x/../../../etc"])
def test_links_that_lead_outside_are_not_made(tmp_path: Path, target: str) -> None:
    data = tar_of((member("out", tarfile.SYMTYPE, target), b""), (member("good"), b"x"))
    assert unpack(pieces(data), tmp_path / "d") == ["good"]
    assert everything(tmp_path / "d") == {"good"}


def test_link_of_the_tar_is_not_followed_by_a_later_file(tmp_path: Path) -> None:
    (tmp_path / "d" / "inside").mkdir(parents=True)
    data = tar_of((member("sub", tarfile.SYMTYPE, "inside"), b""), (member("sub/evil"), b"x"))
    with pytest.raises(InvalidPath):
        unpack(pieces(data), tmp_path / "d")
    assert not (tmp_path / "d" / "inside" / "evil").exists()


def test_links_that_lie_in_the_destination_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("mine")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "folder").symlink_to(outside)
    (tmp_path / "d" / "file").symlink_to(outside / "precious")
    with pytest.raises(InvalidPath):
        unpack(pieces(tar_of((member("folder/precious"), b"evil"))), tmp_path / "d")
    unpack(pieces(tar_of((member("file"), b"new"))), tmp_path / "d")
    assert (outside / "precious").read_text() == "mine"
    assert not (tmp_path / "d" / "file").is_symlink() and (tmp_path / "d" / "file").read_text() == "new"


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.LNKTYPE])
def test_devices_pipes_and_hard_links_are_passed_over(tmp_path: Path, kind: bytes) -> None:
    data = tar_of((member("evil", kind, "/etc/passwd"), b""), (member("good"), b"x"))
    assert unpack(pieces(data), tmp_path / "d") == ["good"]
    assert everything(tmp_path / "d") == {"good"}


def test_truncated_stream_is_an_error_and_leaves_no_half_file(tmp_path: Path) -> None:
    data = tar_of((member("a"), b"x" * 100_000))
    with pytest.raises(HutchError):
        unpack(pieces(data[:50_000]), tmp_path / "d")
    assert everything(tmp_path / "d") == set()


def test_file_over_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    with pytest.raises(InvalidPath):
        unpack(pieces(tar_of((member("a"), b"x"))), tmp_path)
    assert everything(tmp_path) == {"a", "a/b"}


@given(st.binary(max_size=3000))
def test_rubbish_is_an_error_and_no_crash(data: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        with contextlib.suppress(InternalError, InvalidPath):
            unpack(pieces(data, 100), Path(folder))
        assert os.listdir(folder) == []


def test_chunks_of_any_size(tmp_path: Path) -> None:
    data = tar_of((member("a"), os.urandom(70_000)), (member("b"), b"2"))
    for size in (1, 7, 512, 65_536, 1 << 20):
        unpack(pieces(data, size), tmp_path / str(size))
        assert (tmp_path / str(size) / "b").read_bytes() == b"2"
