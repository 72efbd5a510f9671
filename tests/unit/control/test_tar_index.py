"""Archives from a sandbox: indexed as they pass, refused when they are no honest ones."""

from __future__ import annotations

import contextlib
import io
import tarfile
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hutch.control.tar_index import TarIndex
from hutch.errors import InputFailed

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


def archive(*members: tuple[tarfile.TarInfo, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def member(name: str, data: bytes = b"", **values: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in values.items():
        setattr(info, key, value)
    return info, data


def index(data: bytes, step: int = 1 << 20) -> TarIndex:
    found = TarIndex()
    for position in range(0, len(data), step):
        found.feed(data[position : position + step])
    found.close()
    return found


@given(
    st.lists(
        st.tuples(
            st.text("abcé/", min_size=1, max_size=150).filter(lambda n: all(n.split("/"))), st.binary(max_size=1300)
        ),
        max_size=6,
    ),
    st.integers(1, 700),
    st.sampled_from(FORMATS[1:]),
)
def test_files_are_where_the_index_says(files: list[tuple[str, bytes]], step: int, format: int) -> None:
    data = archive(*[member(name, body) for name, body in files], format=format)
    found = index(data, step).entries
    assert [(e.path, e.size, data[e.offset : e.offset + e.size]) for e in found] == [(n, len(b), b) for n, b in files]


@pytest.mark.parametrize("format", FORMATS)
def test_long_names_of_every_format(format: int) -> None:
    name = "d" * 60 + "/" + "e" * 90
    assert [entry.path for entry in index(archive(member(name, b"x"), format=format)).entries] == [name]


def test_directories_and_links_are_let_through_and_not_listed() -> None:
    data = archive(
        member("d", type=tarfile.DIRTYPE),
        member("d/link", type=tarfile.SYMTYPE, linkname="x" * 200),
        member("./d/file", b"data"),
    )
    assert [entry.path for entry in index(data).entries] == ["d/file"]


@pytest.mark.parametrize("name", ["/etc/passwd", "../up", "a/../../b", "a//b", "..", "./../x"])
def test_names_that_lead_outside_are_refused(name: str) -> None:
    with pytest.raises(InputFailed):
        index(archive(member(name, b"x")))


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_what_is_no_file_is_refused(kind: bytes) -> None:
    with pytest.raises(InputFailed):
        index(archive(member("x", type=kind, linkname="y")))


def huge_header(data: bytearray) -> None:
    data[124:136] = b"77777777777\0"
    data[156:157] = b"x"


def wrong_sum(data: bytearray) -> None:
    data[0] ^= 1


def bad_size(data: bytearray) -> None:
    data[124:136] = b"99999999999\0"


@pytest.mark.parametrize("harm", [huge_header, wrong_sum, bad_size])
def test_broken_headers_are_refused(harm: Callable[[bytearray], None]) -> None:
    data = bytearray(archive(member("file", b"x")))
    harm(data)
    if harm is not wrong_sum:
        total = sum(data[:512]) - sum(data[148:156]) + 8 * 0x20
        data[148:156] = f"{total:06o}\0 ".encode()
    with pytest.raises(InputFailed):
        index(bytes(data))


def test_an_archive_that_breaks_off_is_refused() -> None:
    data = archive(member("a", b"x" * 5000))
    for cut in (0, 100, 512, 1000, 5632):
        with pytest.raises(InputFailed):
            index(data[:cut])


def test_more_files_than_are_listed_is_told() -> None:
    found = index(archive(*[member(f"f{i}") for i in range(10_005)]))
    assert len(found.entries) == 10_000
    assert found.truncated


@given(st.binary(max_size=3000))
def test_garbage_never_does_worse_than_an_error(data: bytes) -> None:
    with contextlib.suppress(InputFailed):
        index(data, 100)
