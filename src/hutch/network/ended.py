"""The ends of the connections that guests have made past the fence, and what went over them, as this host's connection
tracking tells.

The kernel counts bytes only where it is told to (`net.netfilter.nf_conntrack_acct`, off by default), from the next
connection on. It tells of each connection of the host, or of none: a filter in the kernel (classic BPF) leaves those
of this node's guests, and of TCP the moment when both sides have said goodbye: the entry itself stays for two minutes.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import socket
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from hutch.network.netlink import NETFILTER, attributes
from hutch.network.nflog import PROTOCOLS

ACCOUNTING = Path("/proc/sys/net/netfilter/nf_conntrack_acct")
AT_ONCE = 64
"""Ends that are read before others have their turn."""
PAUSE = 0.03
"""Seconds until the next: some 2000 a second. What is more the kernel drops."""
_BUFFER = 1 << 20
_NETLINK, _JOIN = 270, 1
_UPDATES, _ENDS = 2, 3
_UPDATE, _END, _GET = 0x100, 0x102, 0x101
_TUPLE, _STATUS, _PROTOCOL, _SENT, _RECEIVED = 1, 3, 4, 9, 10
_LED_ELSEWHERE = 0x20
"""The status of what a rule has led to another place: to the fence, or to a door of the node's."""
_TIME_WAIT, _CLOSED = 7, 8
_ATTACH_FILTER, _FORCE_BUFFER = 26, 33
_TCP, _UDP = 6, 17


@dataclass(frozen=True)
class Place:
    """From where, over what, to where."""

    source: str
    source_port: int | None
    protocol: str
    target: str
    port: int | None


@dataclass(frozen=True)
class Ended:
    """A connection that is over."""

    place: Place
    sent: int | None
    """Bytes of packets, heads and all; None where the kernel did not count."""
    received: int | None
    again: bool = False
    """It has said goodbye before, and was most likely told then."""


class EndLog:
    """Calls `tell` for each end of a connection from this network, and `lost` when the kernel has dropped some."""

    def __init__(self, network: IPv4Network, tell: Callable[[Ended], None], lost: Callable[[], None]) -> None:
        self._network, self._tell, self._lost = network, tell, lost
        self._events: socket.socket | None = None
        self._questions: socket.socket
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin. Raises `OSError` where the kernel does not do it."""
        if ACCOUNTING.read_text().strip() == "0":
            ACCOUNTING.write_text("1")
        events, questions = _socket(), _socket()
        try:
            _attach(events, _filter(self._network))
            events.setsockopt(socket.SOL_SOCKET, _FORCE_BUFFER, _BUFFER)
            for group in (_UPDATES, _ENDS):
                events.setsockopt(_NETLINK, _JOIN, group)
            events.setblocking(False)
        except OSError:
            events.close()
            questions.close()
            raise
        self._events, self._questions = events, questions
        self._listen()

    def stop(self) -> None:
        if self._events is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        asyncio.get_running_loop().remove_reader(self._events)
        self._events.close()
        self._questions.close()
        self._events = None

    def _listen(self) -> None:
        assert self._events is not None
        self._timer = None
        asyncio.get_running_loop().add_reader(self._events, self._read)

    def _read(self) -> None:
        """Some, and then nothing for a moment: whoever opens and closes as fast as he can keeps nobody waiting."""
        assert self._events is not None
        for _ in range(AT_ONCE):
            try:
                message = self._events.recv(1 << 16)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    self._lost()
                continue
            if (ended := self._understood(message)) is not None:
                self._tell(ended)
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._events)
        self._timer = loop.call_later(PAUSE, self._listen)

    def _understood(self, message: bytes) -> Ended | None:
        (kind,) = struct.unpack_from("=H", message, 4)
        found = attributes(message[20:])
        over = _state(found) in (_TIME_WAIT, _CLOSED)
        if kind == _UPDATE:
            return parse(attributes(self._ask(found[_TUPLE]))) if over else None
        return parse(found, again=over) if kind == _END else None

    def _ask(self, ends: bytes) -> bytes:
        """What the kernel knows now of a connection, the counts included: it answers while it is asked."""
        body = struct.pack("=HH", len(ends) + 4, _TUPLE | 0x8000) + ends
        self._questions.send(struct.pack("=IHHIIBBH", 20 + len(body), _GET, 1, 1, 0, socket.AF_INET, 0, 0) + body)
        answer = self._questions.recv(1 << 16)
        return answer[20:] if struct.unpack_from("=H", answer, 4)[0] == _UPDATE else b""


def parse(found: dict[int, bytes], *, again: bool = False) -> Ended | None:
    """None for what is no connection, or not there any more."""
    if _TUPLE not in found:
        return None
    ends = attributes(found[_TUPLE])
    addresses, ports = attributes(ends[1]), attributes(ends[2])
    number = ports[1][0]
    source, target = (socket.inet_ntoa(addresses[at]) for at in (1, 2))
    source_port, port = (
        int.from_bytes(ports[at], "big") if number in (_TCP, _UDP) and at in ports else None for at in (2, 3)
    )
    place = Place(source, source_port, PROTOCOLS.get(number, str(number)), target, port)
    return Ended(place, _bytes(found.get(_SENT)), _bytes(found.get(_RECEIVED)), again)


def _bytes(counted: bytes | None) -> int | None:
    return int.from_bytes(attributes(counted)[2], "big") if counted is not None else None


def _state(found: dict[int, bytes]) -> int | None:
    """Of TCP."""
    state = attributes(attributes(found.get(_PROTOCOL, b"")).get(1, b"")).get(1)
    return state[0] if state else None


def _socket() -> socket.socket:
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETFILTER)
    made.settimeout(2)
    made.bind((0, 0))
    return made


def _filter(network: IPv4Network) -> list[tuple[int, int, int, int]]:
    """Instructions of BPF: the first end is in the network, nothing was led elsewhere, and of changes only those of TCP
    to a state from which there is no way back."""
    load, load_byte_at, load_at, to_index = 0x20, 0x50, 0x40, 0x07
    number, index, mask, equal, result = 0x00, 0x01, 0x54, 0x15, 0x06
    search, search_in = 0xFFFFF000 + 12, 0xFFFFF000 + 16
    head = 20
    code: list[tuple[int, int, int, int]] = []

    def find(*path: int) -> None:
        """An attribute's value comes to stand four bytes behind the index; 0 where it is not there."""
        code.append((number, 0, 0, head))
        for depth, kind in enumerate(path):
            code.extend([(index, 0, 0, kind), (load, 0, 0, search_in if depth else search), (equal, _NO, 0, 0)])
        code.append((to_index, 0, 0, 0))

    find(_TUPLE, 1, 1)
    code += [(load_at, 0, 0, 4), (mask, 0, 0, int(network.netmask)), (equal, 0, _NO, int(network.network_address))]
    find(_STATUS)
    code += [(load_at, 0, 0, 4), (mask, 0, 0, _LED_ELSEWHERE), (equal, 0, _NO, 0)]
    code += [(0x30, 0, 0, 4 if sys.byteorder == "little" else 5), (equal, _YES, 0, _END & 0xFF)]
    find(_PROTOCOL, 1, 1)
    code += [(load_byte_at, 0, 0, 4), (equal, _YES, 0, _TIME_WAIT), (equal, _YES, _NO, _CLOSED)]
    code += [(result, 0, 0, 0), (result, 0, 0, 0xFFFFFFFF)]
    no, yes = len(code) - 2, len(code) - 1
    return [
        (operation, _jump(at, if_true, no, yes), _jump(at, if_false, no, yes), value)
        for at, (operation, if_true, if_false, value) in enumerate(code)
    ]


_NO, _YES = -1, -2
"""Where a jump leads: to the end of the filter."""


def _jump(at: int, to: int, no: int, yes: int) -> int:
    return {_NO: no - at - 1, _YES: yes - at - 1}.get(to, to)


def _attach(to: socket.socket, code: list[tuple[int, int, int, int]]) -> None:
    instructions = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *each) for each in code))
    program = struct.pack("@HP", len(code), ctypes.addressof(instructions))
    to.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, program)
