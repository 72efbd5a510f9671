"""What the kernel of a sandbox may say, and what it may not."""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.volumes.asking import ask, create, made, request, write

from hutch.volumes.allowance import Allowance
from hutch.volumes.fuse import Mount, Nonsense
from hutch.volumes.tree import Tree
from hutch.volumes.wire import Op


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    made = Tree(tmp_path / "vol", Allowance(1 << 20))
    yield made
    made.close()


@pytest.fixture
def mount(tree: Tree) -> Mount:
    return Mount(tree, "sbx_a", "/data")


def test_files(mount: Mount) -> None:
    ino = made(mount)
    assert ask(mount, Op.WRITE, ino, write(0, b"hello")) == (0, struct.pack("<II", 5, 0))
    assert ask(mount, Op.WRITE, ino, write(0, b"!", os.O_APPEND)) == (0, struct.pack("<II", 1, 0))
    assert ask(mount, Op.READ, ino, struct.pack("<QQI", 0, 0, 4096)) == (0, b"hello!")
    assert ask(mount, Op.CREATE, body=create(b"f", os.O_EXCL))[0] == errno.EEXIST
    assert made(mount) == ino
    assert ask(mount, Op.LOOKUP, body=b"none\0")[0] == errno.ENOENT
    assert ask(mount, Op.LINK, body=struct.pack("<Q", ino) + b"g\0")[0] == errno.EPERM
    assert ask(mount, 4999)[0] == errno.ENOSYS
    assert mount.answer(request(Op.FORGET), False) == b""
    _, listed = ask(mount, Op.READDIR, body=struct.pack("<QQI", 0, 0, 4096))
    assert [name in listed for name in (b".", b"..", b"f")] == [True] * 3
    assert len(ask(mount, Op.READDIR, body=struct.pack("<QQI", 0, 0, 50))[1]) == 32


def test_what_is_open_is_let_go_at_the_end(mount: Mount, tree: Tree) -> None:
    ino = made(mount)
    ask(mount, Op.UNLINK, body=b"f\0")
    for _ in range(3):
        ask(mount, Op.RELEASE, ino)  # more often than it was opened
    assert tree.used == 0
    ino = made(mount)
    ask(mount, Op.UNLINK, body=b"f\0")
    assert tree.used > 0 and ask(mount, Op.GETATTR, ino)[0] == 0
    mount.end(for_good=True)
    assert tree.used == 0


def test_what_is_asked_again_is_done_once(mount: Mount) -> None:
    ino = made(mount)
    mkdir = struct.pack("<II", 0o755, 0) + b"d\0"
    first = ask(mount, Op.MKDIR, body=mkdir, number=4)
    assert first[0] == 0
    assert ask(mount, Op.MKDIR, body=mkdir, number=4, again=True) == first  # its answer was lost
    assert ask(mount, Op.MKDIR, body=mkdir, number=6, again=True) == first  # asked anew, after a freeze
    assert ask(mount, Op.MKDIR, body=mkdir, number=8)[0] == errno.EEXIST
    append = write(0, b"x", os.O_APPEND)
    for _ in range(2):
        assert ask(mount, Op.WRITE, ino, append, number=10, again=True)[0] == 0
    assert ask(mount, Op.WRITE, ino, append, number=12, again=True)[0] == 0
    assert ask(mount, Op.READ, ino, struct.pack("<QQI", 0, 0, 9)) == (0, b"xx")


@pytest.mark.parametrize("body", [b"", b"no end", b"a\0b\0"])
def test_nonsense_ends_it(mount: Mount, body: bytes) -> None:
    with pytest.raises(Nonsense):
        mount.answer(request(Op.LOOKUP, body=body), False)
    with pytest.raises(Nonsense):
        mount.answer(b"short", False)
    with pytest.raises(Nonsense):
        mount.answer(request(Op.WRITE, body=write(0, b"x")[:-1]), False)
    with pytest.raises(Nonsense):
        mount.answer(request(Op.GETATTR, ino=1 << 63), False)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    asked=st.lists(
        st.tuples(st.sampled_from([*Op, 0, 77]), st.integers(0, 8), st.binary(max_size=80), st.booleans()), max_size=12
    )
)
def test_nothing_else_comes_of_anything(mount: Mount, asked: list[tuple[int, int, bytes, bool]]) -> None:
    for code, ino, body, again in asked:
        with contextlib.suppress(Nonsense):
            mount.answer(request(code, ino, body), again)
