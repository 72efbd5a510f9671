"""Answers the kernel of one sandbox that has mounted a volume. Blocking; called by the volume's thread only.

Inodes have the tree's own numbers and files need no handles, so that a mount goes on after a restart of the server, and
in a fork. What asks is hostile: every length is checked, and a request that is none ends the connection.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
import struct
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from hashlib import blake2b

import structlog

from hutch.volumes import wire
from hutch.volumes.marks import REMEMBERED, Note
from hutch.volumes.tree import Tree
from hutch.volumes.wire import ONCE, REPLY, REQUEST, SILENT, Op, Set

log = structlog.get_logger("hutch.volumes")

_NOREPLACE = 1
_UTIME_NOW, _UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2
"""What `utimensat` takes for moments: gVisor passes them on."""


_MARKED = REQUEST.size + 512
"""Bytes of a request that, with its number among them, tell it from all others."""
_NUMBER = slice(8, 16)
_SMALLEST_ENTRY = 32


class Nonsense(Exception):
    """Not a request. Nothing that follows on the connection can be believed."""


class Mount:
    """One sandbox's use of a tree, over all of its connections: what it has open, and the answers that it may have
    lost."""

    def __init__(self, tree: Tree, sandbox: str, path: str) -> None:
        """`sandbox` is its id, and `path` where it has mounted the tree."""
        self._tree = tree
        self._sandbox = sandbox
        self._id = tree.marks.mount(sandbox, path)
        self._open: Counter[int] = Counter()
        before = tree.marks.of(self._id)
        self._done_before = {done.mark: done.made for done in before}
        """By an earlier process: marks of requests, and what they have made."""
        self._count = before[-1].number if before else 0
        self._answered: OrderedDict[bytes, bytes] = OrderedDict()
        self._repeated: dict[bytes, bytes] = {}
        """Answers to what was sent again at the beginning of a connection, whatever number it has."""

    def forget(self) -> None:
        """A connection begins, and nothing was sent before: no answer is lost. (After a rollback, or in a kernel that
        has just booted, another request may look like one that was done.)"""
        if self._answered or self._done_before:
            self._done_before.clear()
            self._answered.clear()
            self._repeated.clear()
            try:
                self._tree.marks.forget(self._id)
            except sqlite3.Error:
                log.exception("marks of a volume's mount are not forgotten")

    def answer(self, request: bytes, again: bool) -> bytes:
        """The reply to one whole request; empty where there is none. `again`: it may have been answered already, and
        the answer lost with a connection. Raises `Nonsense`."""
        if len(request) < REQUEST.size:
            raise Nonsense("too short")
        _, code, number, ino, uid, gid, _, _ = REQUEST.unpack_from(request)
        if code in SILENT:
            return b""
        if not again:
            self._repeated.clear()
        caller = _Caller(ino, uid, gid)
        body = request[REQUEST.size :]
        if code not in ONCE:
            return _reply(number, *self._call(code, caller, body))
        mark = _mark(request)
        reply = self._known(code, mark, request) if again else None
        if reply is None:
            reply = _reply(number, *self._call_once(code, caller, body, mark))
        self._answered[mark] = reply
        if len(self._answered) > REMEMBERED:
            self._answered.popitem(last=False)
        if again and code != Op.WRITE:
            self._repeated[_content(request)] = reply
        return reply

    def _known(self, code: int, mark: bytes, request: bytes) -> bytes | None:
        """The answer that a request has had already, under this number or another: the kernel of a sandbox gives up
        what a freeze finds waiting, and asks anew for it."""
        if (reply := self._answered.get(mark)) is not None:
            return reply
        if (made := self._done_before.get(mark)) is not None:
            (number,) = struct.unpack_from("<Q", request, _NUMBER.start)
            return _reply(number, 0, self._recalled(code, made, request[REQUEST.size :]))
        if code != Op.WRITE and (reply := self._repeated.get(_content(request))) is not None:
            return reply[: _NUMBER.start] + request[_NUMBER] + reply[_NUMBER.stop :]
        return None

    def _recalled(self, code: int, made: bytes, body: bytes) -> bytes:
        """What an earlier process has answered, or would have."""
        if code == Op.WRITE:
            return struct.pack("<I4x", wire.WRITE.unpack_from(body)[2])
        if code != Op.CREATE:
            return made
        (ino,) = struct.unpack_from("<Q", made)
        self._hold(ino)
        return made + wire.opened_reply()

    def end(self, for_good: bool) -> None:
        """Nothing of it is open. `for_good`: the sandbox has ended, and asks for nothing again."""
        for ino, times in self._open.items():
            self._tree.release(ino, times)
        self._open.clear()
        if for_good:
            self._tree.marks.forget_sandbox(self._sandbox)

    def _call_once(self, code: int, caller: _Caller, body: bytes, mark: bytes) -> tuple[int, bytes]:
        if code == Op.WRITE and not _appends(body):
            return self._call(code, caller, body)  # done again, it says the same of the same place
        self._count += 1
        with self._tree.noting(Note(self._id, self._count, mark, wire.entry_reply)):
            return self._call(code, caller, body)

    def _call(self, code: int, caller: _Caller, body: bytes) -> tuple[int, bytes]:
        handler = _HANDLERS.get(code)
        if handler is None:
            return errno.ENOSYS, b""
        try:
            return 0, handler(self, caller, body)
        except OSError as error:
            return error.errno or errno.EIO, b""
        except (struct.error, ValueError, OverflowError) as error:
            raise Nonsense(str(error)) from error
        except sqlite3.Error:
            log.exception("a volume's tree failed")
            return errno.EIO, b""

    # ---- names ----

    def _lookup(self, who: _Caller, body: bytes) -> bytes:
        return wire.entry_reply(self._tree.lookup(who.ino, _name(body)))

    def _mknod(self, who: _Caller, body: bytes) -> bytes:
        (mode,) = struct.unpack_from("<I", body)
        return self._make(who, _name(body[16:]), mode)

    def _mkdir(self, who: _Caller, body: bytes) -> bytes:
        (mode,) = struct.unpack_from("<I", body)
        return self._make(who, _name(body[8:]), stat.S_IFDIR | stat.S_IMODE(mode))

    def _symlink(self, who: _Caller, body: bytes) -> bytes:
        name, target = _names(body)
        return self._make(who, name, stat.S_IFLNK | 0o777, target)

    def _make(self, who: _Caller, name: bytes, mode: int, target: bytes | None = None) -> bytes:
        return wire.entry_reply(self._tree.make(who.ino, name, mode, who.uid, who.gid, target))

    def _create(self, who: _Caller, body: bytes) -> bytes:
        flags, mode = struct.unpack_from("<II", body)
        name = _name(body[16:])
        try:
            found = self._tree.make(who.ino, name, stat.S_IFREG | stat.S_IMODE(mode), who.uid, who.gid)
        except FileExistsError:
            if flags & os.O_EXCL:
                raise
            found = self._tree.lookup(who.ino, name)  # another sandbox was faster
        self._hold(found.ino)
        return wire.entry_reply(found) + wire.opened_reply()

    def _unlink(self, who: _Caller, body: bytes) -> bytes:
        self._tree.remove(who.ino, _name(body), directory=False)
        return b""

    def _rmdir(self, who: _Caller, body: bytes) -> bytes:
        self._tree.remove(who.ino, _name(body), directory=True)
        return b""

    def _rename(self, who: _Caller, body: bytes) -> bytes:
        (to,) = struct.unpack_from("<Q", body)
        self._tree.rename(who.ino, (names := _names(body[8:]))[0], to, names[1])
        return b""

    def _rename2(self, who: _Caller, body: bytes) -> bytes:
        to, flags = struct.unpack_from("<QI4x", body)
        if flags & ~_NOREPLACE:
            raise OSError(errno.EINVAL, "an exchange of names")
        name, new = _names(body[16:])
        self._tree.rename(who.ino, name, to, new, replace=not flags)
        return b""

    def _no_link(self, who: _Caller, body: bytes) -> bytes:
        raise OSError(errno.EPERM, "a file has one name")

    # ---- attributes ----

    def _getattr(self, who: _Caller, body: bytes) -> bytes:
        return wire.attributes_reply(self._tree.get(who.ino))

    def _setattr(self, who: _Caller, body: bytes) -> bytes:
        fields = wire.SETATTR.unpack_from(body)
        valid, size, atime, mtime = fields[0], fields[3], fields[5], fields[6]
        atime_ns, mtime_ns, mode, uid, gid = fields[8], fields[9], fields[11], fields[13], fields[14]
        if valid & Set.SIZE:
            self._tree.set_size(who.ino, size)
        now = time.time_ns()
        self._tree.set_attributes(
            who.ino,
            mode=mode if valid & Set.MODE else None,
            uid=uid if valid & Set.UID else None,
            gid=gid if valid & Set.GID else None,
            atime=_moment(valid, Set.ATIME, Set.ATIME_NOW, atime, atime_ns, now),
            mtime=_moment(valid, Set.MTIME, Set.MTIME_NOW, mtime, mtime_ns, now),
        )
        return wire.attributes_reply(self._tree.get(who.ino))

    def _readlink(self, who: _Caller, body: bytes) -> bytes:
        target = self._tree.get(who.ino).target
        if target is None:
            raise OSError(errno.EINVAL, "not a link")
        return target

    def _statfs(self, who: _Caller, body: bytes) -> bytes:
        allowance = self._tree.allowance
        return wire.statfs_reply(self._tree.used + allowance.left, allowance.left)

    # ---- files ----

    def _opened(self, who: _Caller, body: bytes) -> bytes:
        self._hold(self._tree.get(who.ino).ino)
        return wire.opened_reply()

    def _released(self, who: _Caller, body: bytes) -> bytes:
        if self._open[who.ino] > 0:
            self._open[who.ino] -= 1
            if not self._open[who.ino]:
                del self._open[who.ino]
            self._tree.release(who.ino)
        return b""

    def _read(self, who: _Caller, body: bytes) -> bytes:
        _, offset, size = wire.READ.unpack_from(body)
        return self._tree.read(who.ino, offset, min(size, wire.MAX_DATA))

    def _write(self, who: _Caller, body: bytes) -> bytes:
        _, offset, size, _, _, flags, _ = wire.WRITE.unpack_from(body)
        data = memoryview(body)[wire.WRITE.size :]
        if len(data) != size:
            raise ValueError("not as many bytes as it says")
        done = self._tree.write(who.ino, offset, data, append=bool(flags & os.O_APPEND))
        return struct.pack("<I4x", done)

    def _sync(self, who: _Caller, body: bytes) -> bytes:
        self._tree.sync(who.ino)
        return b""

    def _nothing(self, who: _Caller, body: bytes) -> bytes:
        return b""

    def _readdir(self, who: _Caller, body: bytes) -> bytes:
        _, offset, size = wire.READ.unpack_from(body)
        size = min(size, wire.MAX_DATA)
        found = self._tree.get(who.ino)
        dots = [(1, b".", found.ino, stat.S_IFDIR), (2, b"..", found.parent, stat.S_IFDIR)]
        below = self._tree.entries(who.ino, max(2, offset), size // _SMALLEST_ENTRY + 1)
        out = bytearray()
        for cookie, name, ino, mode in (
            *dots[min(offset, 2) :],
            *((cookie, name, entry.ino, entry.mode) for cookie, name, entry in below),
        ):
            packed = wire.directory_entry(ino, cookie, name, mode)
            if len(out) + len(packed) > size:
                break
            out += packed
        return bytes(out)

    def _hold(self, ino: int) -> None:
        self._tree.hold(ino)
        self._open[ino] += 1


class _Caller:
    """On what inode, and as whom. (What it may do there, its own kernel has checked: it is root in its sandbox.)"""

    __slots__ = ("gid", "ino", "uid")

    def __init__(self, ino: int, uid: int, gid: int) -> None:
        if ino >= 1 << 63:
            raise Nonsense("no inode has this number")
        self.ino = ino
        self.uid = uid
        self.gid = gid


_HANDLERS: dict[int, Callable[[Mount, _Caller, bytes], bytes]] = {
    Op.LOOKUP: Mount._lookup,
    Op.GETATTR: Mount._getattr,
    Op.SETATTR: Mount._setattr,
    Op.READLINK: Mount._readlink,
    Op.SYMLINK: Mount._symlink,
    Op.MKNOD: Mount._mknod,
    Op.MKDIR: Mount._mkdir,
    Op.UNLINK: Mount._unlink,
    Op.RMDIR: Mount._rmdir,
    Op.RENAME: Mount._rename,
    Op.RENAME2: Mount._rename2,
    Op.LINK: Mount._no_link,
    Op.OPEN: Mount._opened,
    Op.READ: Mount._read,
    Op.WRITE: Mount._write,
    Op.STATFS: Mount._statfs,
    Op.RELEASE: Mount._released,
    Op.FSYNC: Mount._sync,
    Op.FSYNCDIR: Mount._sync,
    Op.FLUSH: Mount._nothing,
    Op.OPENDIR: Mount._opened,
    Op.READDIR: Mount._readdir,
    Op.RELEASEDIR: Mount._released,
    Op.CREATE: Mount._create,
}


def _reply(number: int, error: int, body: bytes) -> bytes:
    return REPLY.pack(REPLY.size + len(body), -error, number) + body


def _mark(request: bytes) -> bytes:
    """What tells it from all others."""
    return blake2b(request[:_MARKED], digest_size=16).digest()


def _appends(body: bytes) -> bool:
    return len(body) >= wire.WRITE.size and bool(wire.WRITE.unpack_from(body)[5] & os.O_APPEND)


def _content(request: bytes) -> bytes:
    """All of a request but its number."""
    return request[: _NUMBER.start] + request[_NUMBER.stop :]


def _name(body: bytes) -> bytes:
    """A name and the NUL behind it."""
    name, nul, rest = body.partition(b"\0")
    if not nul or rest.strip(b"\0"):
        raise Nonsense("a name without an end")
    return name


def _names(body: bytes) -> tuple[bytes, bytes]:
    first, nul, rest = body.partition(b"\0")
    if not nul:
        raise Nonsense("a name without an end")
    return first, _name(rest)


def _moment(valid: int, given: Set, at_once: Set, seconds: int, nanoseconds: int, now: int) -> int | None:
    if valid & at_once:
        return now
    if not valid & given or nanoseconds == _UTIME_OMIT:
        return None
    if nanoseconds == _UTIME_NOW:
        return now
    if seconds >= 1 << 33 or nanoseconds >= 10**9:
        raise OSError(errno.EINVAL, "not a moment")
    return seconds * 10**9 + nanoseconds
