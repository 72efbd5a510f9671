"""One volume's files: what a file system does, by the numbers of inodes. Blocking; for one thread at a time.

Errors are `OSError` with the number that the call has on Linux. A change is in force when the call returns, and
survives the death of the process; a power cut may take the last moments, unless they were synced. Each inode costs
`INODE_COST` bytes of the allowance beside the file's length: numbers of files are bounded, too, and holes are no gift.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import stat
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hutch.volumes.allowance import Allowance
from hutch.volumes.marks import Marks, Note
from hutch.volumes.schema import INSERT, ROOT, open_database

INODE_COST = 4096
MAX_NAME = 255
MAX_TARGET = 4095
MAX_SIZE = 1 << 44
MAX_DEPTH = 1000
"""Directories in one another."""
_DEPTH = """
WITH RECURSIVE up (ino, depth) AS (
    SELECT ?, 0 UNION ALL SELECT inode.parent, depth + 1 FROM up JOIN inode USING (ino) WHERE ino <> ? AND depth < ?
) SELECT max(depth) FROM up
"""
_USED = "SELECT coalesce(sum(? + CASE WHEN mode >> 12 = ? THEN size ELSE 0 END), 0) FROM inode WHERE ino <> ?"
"""Counted when it is opened: to keep the sum in the database would cost each change another page."""
_KINDS = frozenset((stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK))
_BITS = 0o7777


@dataclass(frozen=True)
class Attributes:
    """Of an inode. Times are nanoseconds; `target` is a symbolic link's."""

    ino: int
    parent: int
    mode: int
    uid: int
    gid: int
    size: int
    atime: int
    mtime: int
    ctime: int
    target: bytes | None
    linked: bool

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.mode)


class Tree:
    """The tree in one directory of the host."""

    def __init__(self, directory: Path, allowance: Allowance) -> None:
        """Raises `OSError`, `sqlite3.Error`."""
        self._data = directory / "data"
        self._data.mkdir(parents=True, exist_ok=True)
        self._allowance = allowance
        self._db = open_database(directory / "tree.db", time.time_ns())
        self.marks = Marks(self._db)
        self._note: Note[Attributes] | None = None
        self._open: Counter[int] = Counter()
        self._files: dict[int, int] = {}
        self._used = int(self._db.execute(_USED, (INODE_COST, stat.S_IFREG >> 12, ROOT)).fetchone()[0])
        self._sweep()

    @property
    def used(self) -> int:
        """Bytes of the allowance that it has."""
        return self._used

    @property
    def allowance(self) -> Allowance:
        """What it takes from."""
        return self._allowance

    def close(self) -> None:
        """Let go of its files."""
        for fd in self._files.values():
            os.close(fd)
        self._files.clear()
        self._db.close()

    @contextlib.contextmanager
    def noting(self, note: Note[Attributes]) -> Iterator[None]:
        """Of what is called within, the change is marked as done, in one transaction with it. (What changes nothing
        may be done again.)"""
        self._note = note
        try:
            yield
        finally:
            self._note = None

    # ---- looking ----

    def get(self, ino: int) -> Attributes:
        """Raises ESTALE for what is gone."""
        row = self._db.execute("SELECT * FROM inode WHERE ino = ?", (ino,)).fetchone()
        if row is None:
            raise OSError(errno.ESTALE, "it is gone")
        return _attributes(row)

    def lookup(self, parent: int, name: bytes) -> Attributes:
        """What a directory has of this name. Raises ENOENT, ENOTDIR, ESTALE."""
        found = self._find(parent, name)
        if found is None:
            self._directory(parent)
            raise OSError(errno.ENOENT, "no such file or directory")
        return found

    def entries(self, ino: int, after: int, limit: int) -> list[tuple[int, bytes, Attributes]]:
        """So many entries of a directory behind a cookie: cookie, name, what it is. Raises ENOTDIR, ESTALE."""
        self._directory(ino)
        rows = self._db.execute(
            "SELECT entry.cookie, entry.name, inode.* FROM entry JOIN inode ON inode.ino = entry.ino"
            " WHERE entry.parent = ? AND entry.cookie > ? ORDER BY entry.cookie LIMIT ?",
            (ino, after, limit),
        )
        return [(row[0], row[1], _attributes(row[2:])) for row in rows]

    # ---- names ----

    def make(self, parent: int, name: bytes, mode: int, uid: int, gid: int, target: bytes | None = None) -> Attributes:
        """A new file, directory or symbolic link, by the kind in `mode`. Raises EEXIST, EPERM for other kinds,
        ENAMETOOLONG, EMLINK for too deep a directory, ENOSPC."""
        _check_name(name)
        if stat.S_IFMT(mode) not in _KINDS:
            raise OSError(errno.EPERM, "only files, directories and symbolic links")
        if target is not None and not 0 < len(target) <= MAX_TARGET:
            raise OSError(errno.ENAMETOOLONG, "too long a link")
        self._directory(parent)
        if self._find(parent, name) is not None:
            raise OSError(errno.EEXIST, "it exists")
        if stat.S_ISDIR(mode) and self._depth(parent) >= MAX_DEPTH:
            raise OSError(errno.EMLINK, "too many directories in one another")
        with self._change(INODE_COST):
            ino = self._insert(parent, mode, uid, gid, target, linked=True)
            self._link(parent, name, ino)
            made = self.get(ino)
            if self._note is not None:
                self._note.made = self._note.describe(made)
        return made

    def remove(self, parent: int, name: bytes, directory: bool) -> None:
        """Take a name away: a directory's when it is empty, or another's. Raises ENOENT, ENOTDIR, EISDIR, ENOTEMPTY."""
        found = self.lookup(parent, name)
        self._check_removable(found, directory)
        with self._change(0):
            self._unlink(parent, name, found)
        self._reap(found.ino)

    def rename(self, parent: int, name: bytes, to: int, new: bytes, replace: bool = True) -> None:
        """Move a name, over what is there unless `replace` is not wished. Raises as `make` and `remove`, and EINVAL
        for a directory into itself."""
        _check_name(new)
        found = self.lookup(parent, name)
        self._directory(to)
        there = self._find(to, new)
        if there is not None:
            if not replace:
                raise OSError(errno.EEXIST, "it exists")
            if there.ino == found.ino:
                return
            self._check_removable(there, found.is_dir)
        if found.is_dir and parent != to:
            self._check_outside(to, found.ino)
        with self._change(0):
            if there is not None:
                self._unlink(to, new, there)
            self._db.execute("DELETE FROM entry WHERE parent = ? AND name = ?", (parent, name))
            self._link(to, new, found.ino)
            self._db.execute("UPDATE inode SET parent = ?, ctime = ? WHERE ino = ?", (to, time.time_ns(), found.ino))
            self._touch(parent)
        if there is not None:
            self._reap(there.ino)

    # ---- files ----

    def draft(self, mode: int, uid: int, gid: int) -> Attributes:
        """A file without a name yet, open: `publish` gives it one, or its last `release` ends it. Raises ENOSPC."""
        with self._change(INODE_COST):
            ino = self._insert(0, stat.S_IFREG | (mode & _BITS), uid, gid, None, linked=False)
        self.hold(ino)
        return self.get(ino)

    def publish(self, ino: int, parent: int, name: bytes) -> Attributes:
        """Give a draft its name, in the place of a file that has it. Raises EISDIR, ENOTDIR, ENAMETOOLONG, ESTALE."""
        _check_name(name)
        self.get(ino)
        self._directory(parent)
        there = self._find(parent, name)
        if there is not None and there.is_dir:
            raise OSError(errno.EISDIR, "it is a directory")
        with self._change(0):
            if there is not None:
                self._unlink(parent, name, there)
            self._link(parent, name, ino)
            self._db.execute("UPDATE inode SET parent = ?, linked = 1 WHERE ino = ?", (parent, ino))
        if there is not None:
            self._reap(there.ino)
        return self.get(ino)

    def read(self, ino: int, offset: int, size: int) -> bytes:
        """Bytes of a file; fewer at its end. Raises EISDIR, EINVAL, ESTALE."""
        found = self._file(ino)
        size = min(size, found.size - offset)
        if size <= 0 or offset < 0:
            return b""
        data = os.pread(self._descriptor(ino), size, offset)
        return data.ljust(size, b"\0")  # a hole at its end: the host's file is shorter

    def write(self, ino: int, offset: int, data: bytes | memoryview, append: bool = False) -> int:
        """How many were written: all. `append`: at its end, wherever that is. Raises EISDIR, EFBIG, ENOSPC, ESTALE."""
        found = self._file(ino)
        if append:
            offset = found.size
        end = offset + len(data)
        _check_size(end)
        now = time.time_ns()
        with self._change(max(0, end - found.size)):
            if offset > found.size:
                self._cut(ino, found.size)
            view = memoryview(data)
            while view:
                done = os.pwrite(self._descriptor(ino), view, offset)
                view, offset = view[done:], offset + done
            size = max(found.size, end)
            self._db.execute("UPDATE inode SET size = ?, mtime = ?, ctime = ? WHERE ino = ?", (size, now, now, ino))
        return len(data)

    def sync(self, ino: int) -> None:
        """Have it survive a power cut. Raises ESTALE."""
        if stat.S_ISREG(self.get(ino).mode):
            os.fdatasync(self._descriptor(ino))
        self._db.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def hold(self, ino: int) -> None:
        """Somebody has it open: it lives on without a name."""
        self._open[ino] += 1

    def release(self, ino: int, times: int = 1) -> None:
        """The end of so many `hold`."""
        self._open[ino] -= times
        if self._open[ino] <= 0:
            del self._open[ino]
            self._reap(ino)

    def set_size(self, ino: int, size: int) -> None:
        """Cut it, or let it have a hole at its end. Raises EISDIR, EFBIG, ENOSPC, ESTALE."""
        found = self._file(ino)
        _check_size(size)
        now = time.time_ns()
        with self._change(size - found.size):
            if size > found.size:
                self._cut(ino, found.size)
            self._db.execute("UPDATE inode SET size = ?, mtime = ?, ctime = ? WHERE ino = ?", (size, now, now, ino))
        if size < found.size:
            self._cut(ino, size)

    def set_attributes(
        self,
        ino: int,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        atime: int | None = None,
        mtime: int | None = None,
    ) -> None:
        """Change what is given; of `mode` the permission bits. Raises ESTALE."""
        found = self.get(ino)
        values = (
            found.mode if mode is None else stat.S_IFMT(found.mode) | (mode & _BITS),
            found.uid if uid is None else uid,
            found.gid if gid is None else gid,
            found.atime if atime is None else atime,
            found.mtime if mtime is None else mtime,
        )
        with self._change(0):
            self._db.execute(
                "UPDATE inode SET mode = ?, uid = ?, gid = ?, atime = ?, mtime = ?, ctime = ? WHERE ino = ?",
                (*values, time.time_ns(), ino),
            )

    # ---- how it is done ----

    @contextlib.contextmanager
    def _change(self, cost: int) -> Iterator[None]:
        """One transaction, for so many bytes of the allowance."""
        self._allowance.take(max(0, cost))
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                if self._note is not None:
                    self.marks.add(self._note)
                self._db.execute("COMMIT")
                self._note = None
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise
        except BaseException as error:
            self._allowance.take(-max(0, cost))
            if isinstance(error, sqlite3.OperationalError) and "full" in str(error):
                raise OSError(errno.ENOSPC, "the server's disk is full") from error
            raise
        self._allowance.take(min(0, cost))
        self._used += cost

    def _find(self, parent: int, name: bytes) -> Attributes | None:
        row = self._db.execute(
            "SELECT inode.* FROM entry JOIN inode ON inode.ino = entry.ino WHERE entry.parent = ? AND entry.name = ?",
            (parent, name),
        ).fetchone()
        return _attributes(row) if row is not None else None

    def _directory(self, ino: int) -> Attributes:
        found = self.get(ino)
        if not found.is_dir:
            raise OSError(errno.ENOTDIR, "not a directory")
        if not found.linked:
            raise OSError(errno.ENOENT, "the directory was removed")
        return found

    def _file(self, ino: int) -> Attributes:
        found = self.get(ino)
        if found.is_dir:
            raise OSError(errno.EISDIR, "it is a directory")
        if not stat.S_ISREG(found.mode):
            raise OSError(errno.EINVAL, "not a file")
        return found

    def _depth(self, ino: int) -> int:
        """How many directories it is below the root; `MAX_DEPTH` at most."""
        row = self._db.execute(_DEPTH, (ino, ROOT, MAX_DEPTH)).fetchone()
        return int(row[0])

    def _check_outside(self, ino: int, of: int) -> None:
        """`ino` is neither `of` nor below it."""
        while ino != of:
            if ino == ROOT:
                return
            ino = self.get(ino).parent
        raise OSError(errno.EINVAL, "a directory cannot be moved into itself")

    def _check_removable(self, found: Attributes, directory: bool) -> None:
        if found.is_dir != directory:
            raise OSError(errno.ENOTDIR if directory else errno.EISDIR, "it is of another kind")
        if directory and self._db.execute("SELECT 1 FROM entry WHERE parent = ?", (found.ino,)).fetchone():
            raise OSError(errno.ENOTEMPTY, "the directory is not empty")

    def _insert(self, parent: int, mode: int, uid: int, gid: int, target: bytes | None, linked: bool) -> int:
        now = time.time_ns()
        values = (None, parent, mode, uid, gid, len(target or b""), now, now, now, target, int(linked))
        return int(self._db.execute(INSERT, values).lastrowid or 0)

    def _link(self, parent: int, name: bytes, ino: int) -> None:
        self._db.execute("INSERT INTO entry (parent, name, ino) VALUES (?, ?, ?)", (parent, name, ino))
        self._touch(parent)

    def _unlink(self, parent: int, name: bytes, found: Attributes) -> None:
        self._db.execute("DELETE FROM entry WHERE parent = ? AND name = ?", (parent, name))
        self._db.execute("UPDATE inode SET linked = 0, ctime = ? WHERE ino = ?", (time.time_ns(), found.ino))
        self._touch(parent)

    def _touch(self, directory: int) -> None:
        now = time.time_ns()
        self._db.execute("UPDATE inode SET mtime = ?, ctime = ? WHERE ino = ?", (now, now, directory))

    def _reap(self, ino: int) -> None:
        """End an inode that has no name, unless somebody has it open."""
        if self._open[ino] > 0:
            return
        row = self._db.execute("SELECT * FROM inode WHERE ino = ? AND linked = 0", (ino,)).fetchone()
        if row is None:
            return
        found = _attributes(row)
        cost = INODE_COST + (found.size if stat.S_ISREG(found.mode) else 0)
        if (fd := self._files.pop(ino, None)) is not None:
            os.close(fd)
        self._path(ino).unlink(missing_ok=True)  # before its row: what is swept after a crash is found by the row
        with self._change(-cost):
            self._db.execute("DELETE FROM inode WHERE ino = ?", (ino,))

    def _sweep(self) -> None:
        """What a process that has died had open without a name."""
        for (ino,) in self._db.execute("SELECT ino FROM inode WHERE linked = 0").fetchall():
            self._reap(ino)

    def _cut(self, ino: int, size: int) -> None:
        """Have the host's file end where the file does. Behind that lies what was cut off, and what a process that died
        had written and not yet said so: before a hole is made there."""
        fd = self._descriptor(ino)
        if os.fstat(fd).st_size > size:
            os.ftruncate(fd, size)

    def _path(self, ino: int) -> Path:
        return self._data / f"{ino & 0xFF:02x}" / str(ino)

    def _descriptor(self, ino: int) -> int:
        """Of the host's file, made with the first byte. The last used ones are kept."""
        fd = self._files.pop(ino, None)
        if fd is None:
            path = self._path(ino)
            path.parent.mkdir(exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            if len(self._files) >= _MOST_FILES:
                os.close(self._files.pop(next(iter(self._files))))
        self._files[ino] = fd
        return fd


_MOST_FILES = 32
"""Files of the host's that a volume has open."""


def _attributes(row: tuple[int, int, int, int, int, int, int, int, int, bytes | None, int]) -> Attributes:
    return Attributes(*row[:10], linked=bool(row[10]))


def _check_name(name: bytes) -> None:
    if len(name) > MAX_NAME:
        raise OSError(errno.ENAMETOOLONG, "too long a name")
    if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
        raise OSError(errno.EINVAL, "not a name")


def _check_size(size: int) -> None:
    if not 0 <= size <= MAX_SIZE:
        raise OSError(errno.EFBIG, "too large a file")
