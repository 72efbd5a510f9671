"""HTTP to the server: errors raised as they were over there, and tries repeated where that is safe."""

from __future__ import annotations

import ipaddress
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import httpx

from hutch.errors import HutchError, IdempotencyConflict, RequestTimeout, ServerUnavailable
from hutch.sdk._shim import aio
from hutch.sdk.certificates import trusted
from hutch.sdk.config import Server
from hutch.sdk.wire import problem

CONNECT_TIMEOUT = 5.0
SILENCE = 45.0
"""A followed stream sends something every 15 seconds; after this long without, the line is dead."""
STATE_TIMEOUT = 600.0
"""How long a change of a sandbox's state may take at least."""
PATIENCE = 15.0
"""How long a server that once answered may be away (it restarts in a second or two) until the call fails."""
FIRST_PATIENCE = 1.0
"""The same for a server that has never answered: most likely none is running."""
KEEPALIVE_EXPIRY = 15.0
"""An idle connection is used again for so long. Much shorter than the server keeps it: else a request would now and
then be sent on a connection that is just being closed, and only those that may be repeated survive that."""
LOST = (httpx.TransportError, httpx.StreamError)

Params = Mapping[str, str | int | float | bool | None]


class AsyncTransport:
    """One server, one key, one pool of connections."""

    def __init__(self, server: Server, request_timeout: float) -> None:
        self.server = server
        self.request_timeout = request_timeout
        self._met = False
        self._http = aio.HttpClient(
            base_url=server.url,
            headers={"Authorization": f"Bearer {server.api_key}"},
            timeout=self._timeouts(request_timeout),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=32, keepalive_expiry=KEEPALIVE_EXPIRY),
            trust_env=not _is_local(server.url),
            verify=trusted(server.url, environment=not _is_local(server.url)),
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def json(self, method: str, path: str, **options: Any) -> Any:
        """The JSON of an answer. Options as for `request`."""
        return (await self.request(method, path, **options)).json()

    async def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """A whole answer.

        Options: `params`, `body` (JSON), `content` (gives the raw body, once for each try), `headers`, `timeout`
        (seconds, over the client's), `repeat` (whether the call may be made twice; by default all but POST).
        """
        async with self.stream(method, path, **options) as response:
            try:
                await response.aread()
            except LOST as error:
                raise self.lost(error) from error
            return response

    @asynccontextmanager
    async def stream(self, method: str, path: str, **options: Any) -> AsyncIterator[httpx.Response]:
        """An answer whose body is read as it comes. Options as for `request`."""
        response = await self._send(method, path, **options)
        try:
            yield response
        finally:
            await response.aclose()

    async def _send(
        self, method: str, path: str, *, repeat: bool | None = None, timeout: float | None = None, **options: Any
    ) -> httpx.Response:
        """Send until there is a good answer, or an error that another try would not mend."""
        repeat = method != "POST" if repeat is None else repeat
        start, delay = aio.clock(), 0.1
        while True:
            request = self._build(method, path, timeout or self.request_timeout, **options)
            try:
                response = await self._http.send(request, stream=True)
            except LOST as error:
                failure, again = self.lost(error), repeat or isinstance(error, httpx.ConnectError)
                again = again and not isinstance(failure, RequestTimeout)
            else:
                self._met = True
                if response.is_success:
                    return response
                failure = await _read_problem(response)
                again = repeat and (_passing(failure) or (delay > 0.1 and isinstance(failure, IdempotencyConflict)))
            patience = PATIENCE if self._met else FIRST_PATIENCE
            if not again or aio.clock() - start + delay > patience:
                raise failure
            await aio.sleep(delay * random.uniform(0.8, 1.2))  # noqa: S311
            delay = min(2.0, delay * 2)

    def _build(
        self,
        method: str,
        path: str,
        timeout: float,
        *,
        params: Params | None = None,
        body: object = None,
        content: Callable[[], Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Request:
        given = {key: value for key, value in (params or {}).items() if value is not None}
        return self._http.build_request(
            method,
            path,
            params=given,
            json=body,
            content=content() if content else None,
            headers=headers,
            timeout=self._timeouts(timeout),
        )

    def _timeouts(self, seconds: float) -> httpx.Timeout:
        return httpx.Timeout(seconds, connect=min(CONNECT_TIMEOUT, seconds), pool=None)

    def lost(self, error: Exception) -> HutchError:
        """What a failure of the connection is to the caller."""
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return ServerUnavailable(f"no server answers at {self.server.url}")
        if isinstance(error, httpx.TimeoutException):
            return RequestTimeout(f"{self.server.url} has not answered in time", hint="Raise `request_timeout`.")
        return ServerUnavailable(f"the connection to {self.server.url} was lost: {error or type(error).__name__}")

    def socket_url(self, path: str) -> str:
        """The same server, for a WebSocket."""
        parts = urlsplit(self.server.url)
        scheme = "wss" if parts.scheme == "https" else "ws"
        return urlunsplit((scheme, parts.netloc, parts.path.rstrip("/") + path, "", ""))


def at(*parts: str) -> str:
    """A path below `/v1`, each part quoted: an id given by hand cannot name another route."""
    return "/v1/" + "/".join(quote(part, safe="") for part in parts)


def _passing(error: HutchError) -> bool:
    """Whether the trouble is likely to be over in a moment."""
    return error.retryable and error.http_status == 503


def _is_local(url: str) -> bool:
    """A server on this machine is never reached through a proxy, whatever the environment says."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def _read_problem(response: httpx.Response) -> HutchError:
    body = b""
    try:
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > 1 << 20:
                break
    except LOST:
        pass  # the status says enough
    finally:
        await response.aclose()
    return problem(response.status_code, response.headers.get("content-type", ""), body)
