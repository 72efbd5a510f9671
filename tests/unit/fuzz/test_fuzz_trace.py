"""Messages of a sandbox's kernel, which a guest may have taken over."""

from __future__ import annotations

from contextlib import suppress
from ipaddress import ip_address

from hypothesis import strategies as st

from hutch.runtime.trace.wire import BadMessage, Cloned, Connected, Executed, decode
from tests.unit.fuzz.mutants import fuzzed, mutants
from tests.unit.runtime.trace_messages import clone, connect, execve, exited

SEEDS = [
    execve(3, "/usr/bin/python3", "python3", "-c", "print(1)", env="A=1", uid=1000, cwd="/home/user"),
    clone(3, 4, dropped=9),
    exited(4),
    connect(4, "203.0.113.9", 443),
    connect(4, "2001:db8::1", 443),
]
WORDS = [b"\0", b"\x80", b"\xff" * 9, b"\x08", b"\x0a", b"\x12\xff\xff\x7f", b"\x1a\0", b"\x32\x10", b"\x09", b"\x0d"]


@fuzzed(raw=mutants(SEEDS, WORDS) | st.binary(max_size=200))
def test_whatever_it_says_is_bounded_or_refused(raw: bytes) -> None:
    with suppress(BadMessage):
        dropped, said = decode(memoryview(raw))
        assert 0 <= dropped < 1 << 32
        if said is None:
            return
        assert 0 < said.by.pid < 1 << 31
        assert 0 <= said.by.uid < 1 << 32
        assert max(len(said.by.cwd), len(said.by.name)) <= 512
        match said:
            case Cloned():
                assert 0 < said.child < 1 << 31
            case Executed():
                assert len(said.path) <= 512
                assert len(said.argv) <= 33
            case Connected():
                assert not ip_address(said.address).is_loopback
                assert 0 <= said.port < 1 << 16
