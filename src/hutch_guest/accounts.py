"""Users of the sandbox, read from its own /etc/passwd and /etc/group.

Not through `pwd`: that asks the C library's name services, and ours may not fit the image's configuration of them.
"""

from __future__ import annotations

import os

from hutch_guest.errors import GuestError


class UnknownUser(GuestError):
    """Told as 400 on our surface, as `unauthenticated` on envd's."""

    code = "invalid_request"
    status = 400

    def __init__(self, name: str) -> None:
        super().__init__(f"invalid username: '{name}'")


class Account:
    """One user."""

    __slots__ = ("gid", "groups", "home", "name", "uid")

    def __init__(self, name: str, uid: int, gid: int, home: str, groups: tuple[int, ...]) -> None:
        self.name = name
        self.uid = uid
        self.gid = gid
        self.home = home
        self.groups = groups


class _Table:
    """A colon-separated file, read again only when it has changed."""

    def __init__(self, path: str, fields: int) -> None:
        self._path = path
        self._fields = fields
        self._stamp: tuple[int, int, int] | None = None
        self._rows: list[list[str]] = []

    def rows(self) -> list[list[str]]:
        try:
            stat = os.stat(self._path)
            stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if stamp != self._stamp:
                with open(self._path, encoding="utf-8", errors="surrogateescape") as file:
                    rows = [line.rstrip("\n").split(":") for line in file]
                self._rows = [row for row in rows if len(row) >= self._fields and row[2].isdigit()]
                self._stamp = stamp
        except OSError:
            self._rows, self._stamp = [], None
        return self._rows


_users = _Table("/etc/passwd", 7)
_groups = _Table("/etc/group", 4)


def lookup(name: str) -> Account:
    """The account of a user name or number."""
    for row in _users.rows():
        if row[0] == name or row[2] == name:
            uid, gid = int(row[2]), int(row[3] or 0)
            others = [int(group[2]) for group in _groups.rows() if row[0] in group[3].split(",")]
            return Account(row[0], uid, gid, row[5] or "/", tuple({gid, *others}))
    if name in ("root", "0"):
        return Account("root", 0, 0, "/root", (0,))
    raise UnknownUser(name)


def user_name(uid: int) -> str:
    """The name of a user number; the number itself when it has none."""
    return next((row[0] for row in _users.rows() if row[2] == str(uid)), str(uid))


def group_name(gid: int) -> str:
    """The name of a group number; the number itself when it has none."""
    return next((row[0] for row in _groups.rows() if row[2] == str(gid)), str(gid))


def current() -> Account:
    """The account the guest itself runs under."""
    try:
        return lookup(str(os.getuid()))
    except UnknownUser:
        home = os.environ.get("HOME", "/")
        return Account(str(os.getuid()), os.getuid(), os.getgid(), home, (os.getgid(),))
