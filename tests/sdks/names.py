"""A machine on which all names of a domain lead to itself: a name server of the test's own, asked by one process."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_A, _NO_NAME = 1, 3


@contextmanager
def name_server(domain: str, directory: Path) -> Iterator[list[str | Path]]:
    """The beginning of a command line that makes what follows ask it, and it alone."""
    address = f"127.{random.randint(1, 254)}.{random.randint(0, 254)}.{random.randint(1, 254)}"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((address, 53))
        server.settimeout(0.2)
        done = threading.Event()
        thread = threading.Thread(target=_serve, args=(server, domain, done))
        thread.start()
        resolver = directory / "resolv.conf"
        resolver.write_text(f"nameserver {address}\n")
        try:
            yield ["unshare", "-m", "sh", "-c", 'mount --bind "$0" /etc/resolv.conf && exec "$@"', resolver]
        finally:
            done.set()
            thread.join()


def _serve(server: socket.socket, domain: str, done: threading.Event) -> None:
    while not done.is_set():
        try:
            query, sender = server.recvfrom(512)
        except TimeoutError:
            continue
        server.sendto(_answer(query, domain), sender)


def _answer(query: bytes, domain: str) -> bytes:
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode().lower())
        at += 1 + query[at]
    question = query[12 : at + 5]
    known = ".".join(labels).endswith(f".{domain}")
    found = known and int.from_bytes(query[at + 1 : at + 3], "big") == _A
    flags = 0x8580 | (0 if known else _NO_NAME)
    head = query[:2] + b"".join(count.to_bytes(2, "big") for count in (flags, 1, int(found), 0, 0))
    record = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x05\x00\x04\x7f\x00\x00\x01"
    return head + question + (record if found else b"")
