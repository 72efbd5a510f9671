"""Messages of gVisor's trace points."""

from __future__ import annotations

import pytest

from hutch.runtime.trace.wire import LONGEST, BadMessage, Cloned, Connected, Executed, Exited, Said, decode
from tests.unit.runtime.trace_messages import CONNECT, clone, connect, context, execve, exited, field, message

RECORDED = (
    b"\x08\0\x03\0\x07\0\0\0"
    b"\n@\x08\x92\x80\x94\xe0\xf1\xc9\x92\xf5\x18\x10\x03 \x032\x1asbx_6jw4f6yyl6etfar3ucte34:\x00"
    b"B\x01/J\x0fld-linux-x86-64"
    b"\x12 /.hutch/lib/ld-linux-x86-64.so.2\x1a /.hutch/lib/ld-linux-x86-64.so.2\x1a\x02-S\x1a\x08print(1)"
    b'"\x19PYTHONHOME=/.hutch/python'
)
"""An execve of release 20240729."""


def said(raw: bytes) -> Said | None:
    return decode(memoryview(raw))[1]


def test_a_recorded_message_is_read() -> None:
    dropped, found = decode(memoryview(RECORDED))
    assert dropped == 7
    assert isinstance(found, Executed)
    path = "/.hutch/lib/ld-linux-x86-64.so.2"
    assert (found.path, found.argv, found.by.pid, found.by.cwd) == (path, (path, "-S", "print(1)"), 3, "/")
    assert found.by.time == pytest.approx(1795329100, abs=3600)


def test_each_kind_says_who_and_what() -> None:
    cloned, gone = said(clone(7, 9)), said(exited(9))
    assert isinstance(cloned, Cloned)
    assert (cloned.by.pid, cloned.child) == (7, 9)
    assert isinstance(gone, Exited)
    assert gone.by.pid == 9
    asked = said(connect(9, "203.0.113.9", 443, name="curl"))
    assert isinstance(asked, Connected)
    assert (asked.by.pid, asked.by.name, asked.address, asked.port) == (9, "curl", "203.0.113.9", 443)


@pytest.mark.parametrize(
    ("address", "read"),
    [
        ("2001:db8::1", "2001:db8::1"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        *((address, None) for address in ("::1", "::ffff:127.0.0.2", "127.0.0.1", "0.0.0.0", "::")),
    ],
)
def test_only_addresses_outside_are_of_interest(address: str, read: str | None) -> None:
    found = said(connect(9, address, 443))
    assert (found.address if isinstance(found, Connected) else None) == read


def test_a_connection_to_a_file_is_of_no_interest() -> None:
    assert said(message(CONNECT, context(9) + field(6, b"\x01\x00/run/socket"))) is None
    assert said(message(99, b"what later releases say")) is None


def test_a_header_may_grow() -> None:
    raw = execve(3, "/bin/true")
    assert said(b"\x0c\0" + raw[2:8] + b"more" + raw[8:]) == said(raw)


def test_a_long_message_is_cut_and_says_so() -> None:
    words = ("a" * 9000, *(f"word{number}" for number in range(100)))
    found = said(execve(3, "/bin/" + "x" * 9000, *words, env="y" * 90000)[:LONGEST])
    assert isinstance(found, Executed)
    assert (len(found.path), found.path[-1]) == (512, "…")
    assert found.argv[0][-1] == "…"
    assert found.argv[-1] == "…"
    assert sum(map(len, found.argv)) < 1100


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x08\0\x03\0\0\0\0",
        b"\x04\0\x03\0\0\0\0\0" + execve(3, "/x")[8:],
        b"\xff\xff\x03\0\0\0\0\0",
        b"\x08\0\x03\0\0\0\0\0" + b"\xff" * 11,
        b"\x08\0\x03\0\0\0\0\0" + b"\x0b",
        message(3, context(0) + field(2, "/x")),
        message(3, field(2, "/x")),
        message(2, context(7) + field(4, 1 << 40)),
    ],
    ids=lambda raw: f"{len(raw)} bytes",  # not what is in them: the time is, and workers have to agree
)
def test_what_no_kernel_says_is_refused(raw: bytes) -> None:
    with pytest.raises(BadMessage):
        said(raw)
