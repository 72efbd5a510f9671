"""Sees all packets of the host, on whatever link: which of them bear a mark, and where they were."""

from __future__ import annotations

import re
import socket
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

_ALL = 0x0003
_LARGEST = 65536
_ARRIVED = socket.PACKET_HOST


class Sniffer:
    """`marks`: what to look for, with one group that names it."""

    def __init__(self, marks: re.Pattern[bytes]) -> None:
        self._marks = marks
        self._seen: dict[str, set[tuple[str, bool]]] = defaultdict(set)
        self._news = threading.Condition()
        self._ended = False
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self._socket.settimeout(0.1)
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def wait(self, mark: str) -> None:
        """Until a packet with this mark was seen."""
        with self._news:
            assert self._news.wait_for(lambda: mark in self._seen, 60), f"no packet with {mark} has come"

    def sent(self, link: str) -> set[str]:
        """Marks of packets that came out of this link."""
        with self._news:
            return {mark for mark, places in self._seen.items() if (link, True) in places}

    def elsewhere(self, link: str) -> dict[str, set[str]]:
        """Marks that were seen on others than this link, and where."""
        with self._news:
            found = {mark: {at for at, _ in places} - {link} for mark, places in self._seen.items()}
        return {mark: links for mark, links in found.items() if links}

    def _listen(self) -> None:
        while not self._ended:
            try:
                data, (link, _, kind, *_) = self._socket.recvfrom(_LARGEST)
            except TimeoutError:
                continue
            for mark in self._marks.findall(data):
                with self._news:
                    self._seen[mark.decode()].add((link, kind == _ARRIVED))
                    self._news.notify_all()


@contextmanager
def sniffing(marks: bytes) -> Iterator[Sniffer]:
    """It sees what comes meanwhile."""
    sniffer = Sniffer(re.compile(marks))
    sniffer._thread.start()
    try:
        yield sniffer
    finally:
        sniffer._ended = True
        sniffer._thread.join()
        sniffer._socket.close()
