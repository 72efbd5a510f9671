"""What a sandbox asks for is done once, whenever the server is killed: asked again, it gives the first answer."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import shutil
import signal
import sqlite3
import stat
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from tests.unit.volumes.asking import ask, create, made, request, write

from hutch.control.links import Link
from hutch.volumes import Volume, paths
from hutch.volumes.allowance import Allowance
from hutch.volumes.fuse import Mount
from hutch.volumes.marks import REMEMBERED
from hutch.volumes.schema import ROOT
from hutch.volumes.tree import Tree
from hutch.volumes.wire import REPLY, Op, Set

MKDIR, SIZE = struct.pack("<II", 0o755, 0), struct.Struct("<IIQQQQQQIIIIIIII")
RENAME, RENAME2 = struct.pack("<Q", ROOT), struct.pack("<QII", ROOT, 1, 0)


def opened(directory: Path) -> tuple[Tree, Mount]:
    volume = Tree(directory, Allowance(1 << 24))
    return volume, Mount(volume, "sbx_a", "/data")


def prepared(directory: Path) -> int:
    volume, mount = opened(directory)
    log = made(mount, b"log")
    ask(mount, Op.WRITE, log, write(0, b"base "))
    made(mount, b"old")
    ask(mount, Op.MKDIR, body=MKDIR + b"dir\0")
    mount.end(for_good=True)
    volume.close()
    return log


def errand(log: int) -> list[bytes]:
    """What waits in the sandbox when the server is killed, in its order."""
    cut = SIZE.pack(Set.SIZE, 0, 0, 19, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    asked = [
        (Op.WRITE, log, write(0, b"first ", os.O_APPEND)),
        (Op.WRITE, log, write(0, b"second ", os.O_APPEND)),
        (Op.MKDIR, ROOT, MKDIR + b"new\0"),
        (Op.RENAME, ROOT, RENAME + b"log\0moved\0"),
        (Op.SYMLINK, ROOT, b"link\0moved\0"),
        (Op.RENAME, ROOT, RENAME + b"link\0old\0"),
        (Op.CREATE, ROOT, create(b"made", os.O_CREAT | os.O_EXCL)),
        (Op.RENAME2, ROOT, RENAME2 + b"made\0kept\0"),
        (Op.MKNOD, ROOT, struct.pack("<IIII", stat.S_IFREG | 0o600, 0, 0, 0) + b"node\0"),
        (Op.UNLINK, ROOT, b"node\0"),
        (Op.RMDIR, ROOT, b"dir\0"),
        (Op.WRITE, log, write(0, b"BASE ")),
        (Op.WRITE, log, write(0, b"third", os.O_APPEND)),
        (Op.SETATTR, log, cut),
    ]
    return [request(code, ino, body, 2 * number) for number, (code, ino, body) in enumerate(asked)]


def state(volume: Tree) -> tuple[list[tuple[object, ...]], int]:
    found = [
        (path, each.ino, each.mode, each.target, volume.read(each.ino, 0, 99) if stat.S_ISREG(each.mode) else b"")
        for path, each in paths.walk(volume, [], 9)
    ]
    return found, volume.used


class Dead(BaseException):
    """What a process does from here on has no effect: every later step raises it, too."""


class Dying:
    """Ends at one of its steps, and at a write in the midst of it: this process by `kill -9`, or, far quicker, what
    is done within `with`."""

    def __init__(self, at: int, really: bool) -> None:
        self._left = at
        self._really = really
        self._patch = pytest.MonkeyPatch()
        self.connections: list[sqlite3.Connection] = []

    def step(self, last_words: Callable[[], object] = lambda: None) -> None:
        self._left -= 1
        if self._left == -1:
            last_words()
            if self._really:
                os.kill(os.getpid(), signal.SIGKILL)
        if self._left < 0:
            raise Dead

    def __enter__(self) -> None:
        dying, pwrite, connect = self, os.pwrite, sqlite3.connect

        class Connection(sqlite3.Connection):
            def execute(self, *args: Any) -> sqlite3.Cursor:
                if not args[0].startswith(("SELECT", "WITH", "BEGIN", "PRAGMA")):
                    dying.step()
                return super().execute(*args)

        def connected(*args: Any, **options: Any) -> sqlite3.Connection:
            self.connections.append(connect(*args, **options, factory=Connection))
            return self.connections[-1]

        def half_written(fd: int, data: bytes, at: int) -> int:
            self.step(lambda: pwrite(fd, data[: len(data) // 2], at))
            return pwrite(fd, data, at)

        self._patch.setattr(sqlite3, "connect", connected)
        self._patch.setattr(os, "pwrite", half_written)
        for name in ("ftruncate", "unlink"):
            real = getattr(os, name)
            self._patch.setattr(os, name, lambda *args, real=real, **rest: (self.step(), real(*args, **rest))[1])

    def __exit__(self, *_: object) -> None:
        self._patch.undo()
        for connection in self.connections:
            connection.close()  # what was not committed is gone


def server(directory: Path, asked: list[bytes], again: int, die_at: int) -> bool:
    """What a process of the server's does until it dies, or has done all; whether it died."""
    try:
        with Dying(die_at, really=False):
            serve(directory, asked, again)
    except Dead:
        return True
    return False


def killed_server(directory: Path, asked: list[bytes], again: int, die_at: int) -> bool:
    """The same in a process, and with a real `kill -9`."""
    child = os.fork()
    if not child:
        try:
            with Dying(die_at, really=True):
                serve(directory, asked, again)
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert status == 0 or os.WTERMSIG(status) == signal.SIGKILL
    return status != 0


def serve(directory: Path, asked: list[bytes], again: int) -> None:
    _, mount = opened(directory)
    for place, each in enumerate(asked):
        mount.answer(each, place < again)


def test_killed_at_any_step_it_does_each_once(tmp_path: Path) -> None:
    log = prepared(tmp_path / "undisturbed")
    asked = errand(log)
    volume, mount = opened(tmp_path / "undisturbed")
    replies = [mount.answer(each, False) for each in asked]
    assert all(REPLY.unpack_from(reply)[1] == 0 for reply in replies)
    mount.end(for_good=True)
    wanted = state(volume)
    volume.close()
    assert [content for *_, content in wanted[0]] == [b"", b"BASE first second t", b"", b""]

    prepared(tmp_path / "new")
    chance, step, killed = random.Random(7), 0, True
    while killed:
        directory = shutil.copytree(tmp_path / "new", tmp_path / str(step))
        killed = (killed_server if step % 20 == 5 else server)(directory, asked, again=0, die_at=step)
        if chance.random() < 0.5:
            server(directory, asked, again=len(asked), die_at=chance.randrange(30))
        volume, mount = opened(directory)
        for each, first in zip(asked, replies, strict=True):
            again = mount.answer(each, True)
            assert (again[:24], len(again)) == (first[:24], len(first)), (step, each)
        mount.end(for_good=True)
        assert state(volume) == wanted, step
        volume.close()
        shutil.rmtree(directory)
        step += 1
    assert step > 50


def test_what_a_killed_write_left_is_in_no_hole(tmp_path: Path) -> None:
    log = prepared(tmp_path / "vol")
    append = request(Op.WRITE, log, write(0, b"x" * 100, os.O_APPEND), 2)
    assert server(tmp_path / "vol", [append], again=0, die_at=3)  # the bytes are there, and nothing says so
    for grow in (lambda volume: volume.set_size(log, 50), lambda volume: volume.write(log, 49, b"\0")):
        directory = shutil.copytree(tmp_path / "vol", tmp_path / "copy")
        volume, _ = opened(directory)
        grow(volume)
        assert volume.read(log, 0, 200) == b"base ".ljust(50, b"\0")
        volume.close()
        shutil.rmtree(directory)


def test_marks_end(tmp_path: Path) -> None:
    """With a connection before which nothing was sent, with the sandbox, and with their number."""
    log = prepared(tmp_path / "vol")
    append = write(0, b"x", os.O_APPEND)
    volume, mount = opened(tmp_path / "vol")
    for number in range(REMEMBERED + 200):
        ask(mount, Op.WRITE, log, append, number)
    volume.close()  # as if it had died
    volume, mount = opened(tmp_path / "vol")
    assert REMEMBERED <= len(volume.marks.of(1)) < REMEMBERED + 200
    ask(mount, Op.WRITE, log, append, REMEMBERED + 199, again=True)
    assert volume.get(log).size == 5 + REMEMBERED + 200
    mount.forget()
    assert volume.marks.of(1) == []
    ask(mount, Op.WRITE, log, append, REMEMBERED + 199, again=True)
    assert volume.get(log).size == 6 + REMEMBERED + 200
    mount.end(for_good=False)
    assert (volume.marks.sandboxes(), len(volume.marks.of(1))) == ({"sbx_a"}, 1)
    mount.end(for_good=True)
    assert (volume.marks.sandboxes(), volume.marks.of(1)) == (set(), [])
    volume.close()


@pytest.mark.parametrize(("connections", "error"), [([1], 0), ([0, 1], errno.EEXIST)])
async def test_a_connection_says_what_was_sent_before(tmp_path: Path, connections: list[int], error: int) -> None:
    prepared(tmp_path / "vol")
    mkdir = request(Op.MKDIR, ROOT, MKDIR + b"d\0", 2)
    volume, mount = opened(tmp_path / "vol")
    mount.answer(mkdir, False)
    volume.close()
    with ThreadPoolExecutor(1) as thread:
        volume, mount = opened(tmp_path / "vol")
        for again in connections:
            link, said = Link(Volume("vol", volume, thread), mount, lambda: None), asyncio.Event()
            transport = Mock(**{"write.side_effect": lambda _, said=said: said.set()})
            link.connection_made(transport)
            link.data_received(struct.pack("<I", again) + (mkdir if again else request(Op.GETATTR)))
            await said.wait()
        assert REPLY.unpack_from(transport.write.call_args[0][0])[1] == -error
        volume.close()
