"""A volume's tree: what a file system promises, what it costs, and what a dead process leaves."""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hutch.volumes import paths
from hutch.volumes.allowance import Allowance
from hutch.volumes.schema import ROOT
from hutch.volumes.tree import INODE_COST, MAX_DEPTH, Tree

FILE, FOLDER = stat.S_IFREG | 0o644, stat.S_IFDIR | 0o755


@pytest.fixture
def allowance() -> Allowance:
    return Allowance(1 << 20)


@pytest.fixture
def tree(tmp_path: Path, allowance: Allowance) -> Iterator[Tree]:
    made = Tree(tmp_path / "vol", allowance)
    yield made
    made.close()


def fails(number: int, call: Callable[..., object], *arguments: object) -> None:
    with pytest.raises(OSError) as caught:
        call(*arguments)
    assert caught.value.errno == number


def test_bytes(tree: Tree) -> None:
    ino = tree.make(ROOT, b"f", FILE, 1000, 1000).ino
    assert tree.write(ino, 0, b"hello") == 5
    tree.write(ino, 10, b"end")
    assert tree.read(ino, 0, 100) == b"hello\0\0\0\0\0end"
    tree.write(ino, 0, b"!", append=True)
    assert (tree.read(ino, 12, 100), tree.read(ino, 99, 1)) == (b"d!", b"")
    tree.set_size(ino, 2)
    tree.set_size(ino, 6)
    assert tree.read(ino, 0, 100) == b"he\0\0\0\0"
    fails(errno.EFBIG, tree.set_size, ino, 1 << 60)
    fails(errno.EISDIR, tree.write, ROOT, 0, b"x")
    fails(errno.ESTALE, tree.read, 999, 0, 1)


def test_names(tree: Tree) -> None:
    folder = tree.make(ROOT, b"d", FOLDER, 0, 0).ino
    inner = tree.make(folder, b"e", FOLDER, 0, 0).ino
    file = tree.make(inner, b"f", FILE, 0, 0).ino
    fails(errno.EEXIST, tree.make, ROOT, b"d", FOLDER, 0, 0)
    fails(errno.EPERM, tree.make, ROOT, b"dev", stat.S_IFCHR, 0, 0)
    for name, number in ((b"", errno.EINVAL), (b"..", errno.EINVAL), (b"a/b", errno.EINVAL), (b"x" * 256, 36)):
        fails(number, tree.make, ROOT, name, FILE, 0, 0)
    fails(errno.ENOTDIR, tree.make, file, b"x", FILE, 0, 0)
    fails(errno.ENOTEMPTY, tree.remove, ROOT, b"d", True)
    fails(errno.EISDIR, tree.remove, ROOT, b"d", False)
    fails(errno.EINVAL, tree.rename, ROOT, b"d", inner, b"loop")
    tree.rename(inner, b"f", ROOT, b"g")
    assert (tree.lookup(ROOT, b"g").ino, tree.get(file).parent) == (file, ROOT)
    tree.make(ROOT, b"h", FILE, 0, 0)
    fails(errno.EEXIST, tree.rename, ROOT, b"g", ROOT, b"h", False)
    tree.rename(ROOT, b"g", ROOT, b"h")
    assert [name for _, name, _ in tree.entries(ROOT, 0, 10)] == [b"d", b"h"]
    tree.remove(folder, b"e", True)
    fails(errno.ESTALE, tree.make, inner, b"late", FILE, 0, 0)


def test_reading_a_directory_goes_on_while_it_is_emptied(tree: Tree) -> None:
    for number in range(20):
        tree.make(ROOT, b"%d" % number, FILE, 0, 0)
    after, seen = 2, []
    while batch := tree.entries(ROOT, after, 3):
        after = batch[-1][0]
        for _, name, _ in batch:
            seen.append(name)
            tree.remove(ROOT, name, False)
    assert len(seen) == 20


def test_every_byte_is_paid_for_and_given_back(tree: Tree, allowance: Allowance) -> None:
    ino = tree.make(ROOT, b"f", FILE, 0, 0).ino
    tree.set_size(ino, 1 << 19)
    assert tree.used == allowance.used == INODE_COST + (1 << 19)
    fails(errno.ENOSPC, tree.set_size, ino, 1 << 20)
    fails(errno.ENOSPC, tree.write, ino, 1 << 20, b"x")
    assert tree.get(ino).size == 1 << 19
    tree.set_size(ino, 10)
    tree.remove(ROOT, b"f", False)
    assert tree.used == allowance.used == 0
    with pytest.raises(OSError):
        for number in range(1000):
            tree.make(ROOT, b"%d" % number, FILE, 0, 0)
    assert allowance.left < INODE_COST


def test_a_file_lives_while_it_is_open_and_no_longer(tmp_path: Path, tree: Tree, allowance: Allowance) -> None:
    held, lost = (tree.make(ROOT, name, FILE, 0, 0).ino for name in (b"held", b"lost"))
    for ino in (held, lost):
        tree.write(ino, 0, b"kept")
        tree.hold(ino)
    tree.remove(ROOT, b"held", False)
    tree.remove(ROOT, b"lost", False)
    assert tree.read(held, 0, 9) == b"kept"
    tree.release(held)
    fails(errno.ESTALE, tree.read, held, 0, 9)
    tree.draft(0o600, 0, 0)
    tree.close()  # as if it had died
    again = Tree(tmp_path / "vol", Allowance(1 << 20))
    fails(errno.ESTALE, again.read, lost, 0, 9)
    assert (again.used, [path for path in (tmp_path / "vol" / "data").rglob("*") if path.is_file()]) == (0, [])
    again.close()


def test_a_draft_appears_whole(tree: Tree) -> None:
    old = tree.make(ROOT, b"f", FILE, 0, 0).ino
    tree.write(old, 0, b"old")
    draft = tree.draft(0o600, 7, 8)
    tree.write(draft.ino, 0, b"new")
    assert tree.read(tree.lookup(ROOT, b"f").ino, 0, 9) == b"old"
    tree.publish(draft.ino, ROOT, b"f")
    tree.release(draft.ino)
    found = tree.lookup(ROOT, b"f")
    assert (tree.read(found.ino, 0, 9), found.uid, stat.S_IMODE(found.mode)) == (b"new", 7, 0o600)
    fails(errno.ESTALE, tree.get, old)
    tree.make(ROOT, b"d", FOLDER, 0, 0)
    other = tree.draft(0o600, 0, 0)
    fails(errno.EISDIR, tree.publish, other.ino, ROOT, b"d")


def test_paths(tree: Tree) -> None:
    parts = paths.parts_of
    assert parts("a/../../b//c/.") == [b"b", b"c"]
    paths.make_directories(tree, parts("/a/b/c"), 0o755, 1, 1)
    tree.make(paths.find(tree, parts("/a")).ino, b"link", stat.S_IFLNK | 0o777, 0, 0, b"/etc")
    assert [path for path, _ in paths.walk(tree, parts("/"), 2)] == ["/a", "/a/b", "/a/link"]
    fails(errno.ENOTDIR, paths.find, tree, parts("/a/link/passwd"))
    fails(errno.EBUSY, paths.remove, tree, [])
    paths.remove(tree, parts("/a"))
    assert tree.used == 0
    fails(errno.ENAMETOOLONG, parts, "x" * 5000)
    fails(errno.EINVAL, parts, "a\0b")


def test_depth_is_bounded(tree: Tree) -> None:
    tree.allowance.limit = 1 << 30
    ino = ROOT
    for _ in range(MAX_DEPTH):
        ino = tree.make(ino, b"d", FOLDER, 0, 0).ino
    fails(errno.EMLINK, tree.make, ino, b"d", FOLDER, 0, 0)
    paths.remove(tree, [b"d"])
    assert tree.used == 0
