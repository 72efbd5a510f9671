"""The blocking side."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import httpx
from websockets.sync.client import ClientConnection, connect

from hutch.sdk.sources import Source, chunks_of, whole

T = TypeVar("T")

HttpClient = httpx.Client
HttpTransport = httpx.HTTPTransport
Socket = ClientConnection
AnySource = Source
Body = bytes | Iterable[bytes]

sleep = time.sleep
clock = time.monotonic


def iterate(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The iterator as it is."""
    return chunks


def body_of(source: AnySource) -> Body:
    """A request body that gives the source's bytes; made anew for each try."""
    data = whole(source)
    return data if data is not None else chunks_of(source)


def consume(work: Callable[[Iterator[bytes]], T], chunks: Iterator[bytes]) -> T:
    """Run `work` on a stream."""
    return work(chunks)


def in_thread(work: Callable[..., T], *arguments: Any) -> T:
    """Run the work here: the caller waits anyway."""
    return work(*arguments)


class Background:
    """Something that runs beside the caller."""

    def __init__(self, work: Callable[..., None], *arguments: Any) -> None:
        self._thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """A thread cannot be stopped from outside: its request ends when the process or the connection does."""
        self._thread.join(timeout=1)


def open_socket(url: str, key: str, timeout: float) -> Socket:
    """A WebSocket connection."""
    headers = {"Authorization": f"Bearer {key}"}
    connection = connect(url, additional_headers=headers, open_timeout=timeout, max_size=16 << 20, proxy=None)
    return connection.__enter__()  # newer versions of the library connect only here; the caller closes
