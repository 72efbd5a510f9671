"""Fetches URLs that callers name. The server does it, so it must not be a way into the server's own network: every
hop is resolved, checked and connected to by the checked address, and everything is bounded."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import asynccontextmanager
from urllib.parse import quote, urljoin, urlsplit

import httpcore

from hutch.control.addresses import resolve
from hutch.errors import InputFailed, PayloadTooLarge

_MAX_HOPS = 6
_SILENCE = 60.0
_LONGEST = 1800.0
_PLAIN = "%/:?#[]@!$&'()*+,;=~"
_REDIRECTS = (301, 302, 303, 307, 308)


class CheckedBackend(httpcore.AsyncNetworkBackend):
    """Connects to addresses that were checked. TLS still verifies the name: httpcore gives it to `start_tls`."""

    def __init__(self, allow_private: bool) -> None:
        self._allow_private = allow_private
        self._plain = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        address = await resolve(host, port, self._allow_private)
        return await self._plain.connect_tcp(address, port, timeout=timeout)


class Fetcher:
    """`allow_private` is for development."""

    def __init__(self, allow_private: bool, max_bytes: int) -> None:
        self._allow_private = allow_private
        self._max_bytes = max_bytes

    async def get(self, url: str) -> AsyncGenerator[bytes, None]:
        """The bytes of the URL, redirects followed. Raises `InputFailed`, `PayloadTooLarge`."""
        until = time.monotonic() + _LONGEST
        async with self._open(url) as (_, response):
            size = 0
            try:
                async for chunk in _timely(response, until):
                    size += len(chunk)
                    if size > self._max_bytes:
                        raise PayloadTooLarge(f"{shown(url)} has more than {self._max_bytes} bytes")
                    yield chunk
            except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
                raise InputFailed(f"{shown(url)}: the connection broke off") from error

    async def final_url(self, url: str) -> str:
        """Where the redirects lead to."""
        async with self._open(url) as (last, _):
            return last

    @asynccontextmanager
    async def _open(self, url: str) -> AsyncIterator[tuple[str, httpcore.Response]]:
        backend = CheckedBackend(self._allow_private)
        async with httpcore.AsyncConnectionPool(max_connections=2, network_backend=backend) as pool:
            for _ in range(_MAX_HOPS):
                response = await _request(pool, url)
                if response.status not in _REDIRECTS:
                    break
                await response.aclose()
                url = _redirected(url, response)
            else:
                raise InputFailed(f"{shown(url)}: more than {_MAX_HOPS - 1} redirects")
            try:
                if response.status != 200:
                    raise InputFailed(f"{shown(url)} answered {response.status}", status_of_source=response.status)
                yield url, response
            finally:
                await response.aclose()


async def _request(pool: httpcore.AsyncConnectionPool, url: str) -> httpcore.Response:
    timeout = {"connect": 15.0, "read": _SILENCE, "write": 30.0, "pool": None}
    try:
        bare = _bare(url)
        parts = urlsplit(bare)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError
        headers = [("Host", parts.netloc), ("User-Agent", "hutch"), ("Accept", "*/*")]
        request = httpcore.Request("GET", bare, headers=headers, extensions={"timeout": timeout})
        return await pool.handle_async_request(request)
    except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol) as error:
        raise InputFailed(f"{shown(url)} cannot be reached: {error or type(error).__name__}") from error
    except httpcore.TimeoutException as error:
        raise InputFailed(f"{shown(url)} did not answer in time") from error
    except (ValueError, TypeError) as error:
        raise InputFailed(f"{shown(url)} is no http(s) URL") from error


async def _timely(response: httpcore.Response, until: float) -> AsyncIterator[bytes]:
    stream = aiter(response.aiter_stream())
    while True:
        try:
            async with asyncio.timeout(until - time.monotonic()):
                chunk = await anext(stream, None)
        except TimeoutError as error:
            raise InputFailed(f"not fetched in {_LONGEST:g} s") from error
        if chunk is None:
            return
        yield chunk


def _redirected(url: str, response: httpcore.Response) -> str:
    for name, value in response.headers:
        if name.lower() == b"location":
            return urljoin(url, value.decode("latin-1"))
    raise InputFailed(f"{shown(url)} redirects to nowhere")


def _bare(url: str) -> str:
    """Without user info and fragment, and in ASCII."""
    parts = urlsplit(url)
    path, query = quote(parts.path, safe=_PLAIN), quote(parts.query, safe=_PLAIN)
    host = (parts.hostname or "").encode("idna").decode()
    host = f"[{host}]" if ":" in host else host
    port = f":{parts.port}" if parts.port else ""
    return parts._replace(netloc=host + port, path=path, query=query, fragment="").geturl()


def shown(url: str) -> str:
    """The URL as errors show it: without credentials, query, or great length."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "the URL"
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()[:300]
