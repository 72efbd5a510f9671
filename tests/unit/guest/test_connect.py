"""Ports that are the sandbox's own, reached through its guest."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.unit.guest.client import TOKEN, Guest
from tests.unit.guest.test_http_server import read_all, read_some

Serve = Callable[[socket.socket], None]


@contextmanager
def serving(serve: Serve) -> Iterator[int]:
    """The port of a server that takes one connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            connection, _ = listener.accept()
            with connection:
                serve(connection)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(10)
        assert not thread.is_alive()


def ask(guest: Guest, port: object, token: str = TOKEN, more: bytes = b"") -> socket.socket:
    connection = guest.socket()
    head = f"POST /hutch/connect?port={port} HTTP/1.1\r\nX-Access-Token: {token}\r\nContent-Length: 0\r\n\r\n"
    connection.sendall(head.encode() + more)
    return connection


def echo(connection: socket.socket) -> None:
    while data := connection.recv(65536):
        connection.sendall(data)


def test_bytes_pass_both_ways_to_their_ends(guest: Guest) -> None:
    data = hashlib.shake_256(b"relay").digest(3_000_000)
    with serving(echo) as port, ask(guest, port, more=b"early") as connection:
        assert b" 101 " in read_some(connection, b"early")
        sender = threading.Thread(target=lambda: (connection.sendall(data), connection.shutdown(socket.SHUT_WR)))
        sender.start()
        assert hashlib.sha256(read_all(connection)).digest() == hashlib.sha256(data).digest()
        sender.join()


def test_a_server_that_speaks_first(guest: Guest) -> None:
    def greet(connection: socket.socket) -> None:
        connection.sendall(b"220 hello\r\n")

    with serving(greet) as port, ask(guest, port) as connection:
        assert read_all(connection).endswith(b"\r\n\r\n220 hello\r\n")


def test_the_end_of_the_client_is_the_servers(guest: Guest) -> None:
    with serving(lambda connection: assert_over(connection)) as port:
        connection = ask(guest, port)
        read_some(connection, b"\r\n\r\n")
        connection.close()


def assert_over(connection: socket.socket) -> None:
    connection.settimeout(10)
    assert connection.recv(1) == b""


@pytest.mark.parametrize(("port", "status"), [(1, 502), ("x", 400), (0, 400), (70000, 400), ("", 400)])
def test_ports_that_cannot_be_reached(guest: Guest, port: object, status: int) -> None:
    with ask(guest, port) as connection:
        assert f" {status} ".encode() in read_some(connection, b"\r\n\r\n")


def test_the_token_is_needed(guest: Guest) -> None:
    with serving(echo) as port:
        with ask(guest, port, token="wrong") as connection:
            assert b" 401 " in read_some(connection, b"\r\n\r\n")
        socket.create_connection(("127.0.0.1", port)).close()  # so that the server ends
