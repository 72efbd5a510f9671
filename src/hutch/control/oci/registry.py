"""Images in registries (the OCI distribution API), with anonymous tokens or a login.

A tenant names the host: it is connected to as any URL of a tenant's is, by an address that was checked.
"""

from __future__ import annotations

import base64
import json
import re
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlencode, urljoin, urlsplit

import httpcore

from hutch.control.fetch import CheckedBackend
from hutch.control.oci.manifests import INDEXES, MANIFESTS, MOST_JSON, Descriptor
from hutch.control.oci.reference import DIGEST, Reference
from hutch.control.oci.source import Source, bounded, checked
from hutch.errors import InputFailed

_TIMEOUT = {"connect": 15.0, "read": 60.0, "write": 30.0, "pool": None}
_REDIRECTS = (301, 302, 303, 307, 308)
_MOST_HOPS = 5
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')
_LOCAL = ("localhost", "127.0.0.1", "[::1]")


class Registry(Source):
    """One image of one registry. Use it as a context."""

    def __init__(self, reference: Reference, login: tuple[str, str] | None, allow_private: bool) -> None:
        self._reference = reference
        self._login = login
        self._authorization: str | None = None
        host = reference.registry.rpartition(":")[0] or reference.registry
        # Only a machine's own registry, and only where private addresses are allowed, is asked without TLS.
        scheme = "http" if allow_private and host in _LOCAL else "https"
        self._base = f"{scheme}://{reference.registry}/v2/{reference.name}"
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=ssl.create_default_context(), max_connections=4, network_backend=CheckedBackend(allow_private)
        )
        self.what = f"{reference.registry}/{reference.name}:{reference.wanted[:24]}"

    async def __aenter__(self) -> Registry:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pool.aclose()

    async def top(self) -> tuple[bytes, str]:
        wanted = self._reference.wanted
        accept = ", ".join((*INDEXES, *MANIFESTS))
        async with self._get(f"{self._base}/manifests/{wanted}", accept) as response:
            data = await bounded(response.aiter_stream(), MOST_JSON, f"the manifest of {self.what}")
            media_type = _header(response, b"content-type").partition(";")[0].strip()
        return (checked(data, wanted) if DIGEST.fullmatch(wanted) else data), media_type

    async def manifest_bytes(self, digest: str) -> bytes:
        async with self._get(f"{self._base}/manifests/{digest}", ", ".join(MANIFESTS)) as response:
            return await bounded(response.aiter_stream(), MOST_JSON, f"the manifest of {self.what}")

    async def blob(self, descriptor: Descriptor) -> AsyncGenerator[bytes, None]:
        async with self._get(f"{self._base}/blobs/{descriptor.digest}", "*/*") as response:
            try:
                async for piece in response.aiter_stream():
                    yield piece
            except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
                raise InputFailed(f"{self.what}: the connection broke off") from error

    @asynccontextmanager
    async def _get(self, url: str, accept: str) -> AsyncIterator[httpcore.Response]:
        response = await self._answer(url, accept)
        if response.status == 401:
            challenge = _header(response, b"www-authenticate")
            await response.aclose()
            await self._authorize(challenge)
            response = await self._answer(url, accept)
        try:
            if response.status != 200:
                why = {401: "it wants a login", 403: "it may not be read", 404: "there is none"}
                raise InputFailed(f"{self.what}: {why.get(response.status, f'the registry answers {response.status}')}")
            yield response
        finally:
            await response.aclose()

    async def _answer(self, url: str, accept: str) -> httpcore.Response:
        """With redirects followed; the login goes to the registry itself only."""
        for _ in range(_MOST_HOPS):
            own = urlsplit(url).netloc == urlsplit(self._base).netloc
            response = await self._ask(url, accept, self._authorization if own else None)
            if response.status not in _REDIRECTS:
                return response
            await response.aclose()
            url = urljoin(url, _header(response, b"location"))
        raise InputFailed(f"{self.what}: too many redirects")

    async def _ask(self, url: str, accept: str, authorization: str | None) -> httpcore.Response:
        headers = [("Host", urlsplit(url).netloc), ("User-Agent", "hutch"), ("Accept", accept)]
        if authorization is not None:
            headers.append(("Authorization", authorization))
        if urlsplit(url).scheme not in ("https", urlsplit(self._base).scheme):
            raise InputFailed(f"{self.what}: it leads to an address without TLS")
        try:
            request = httpcore.Request("GET", url, headers=headers, extensions={"timeout": _TIMEOUT})
            return await self._pool.handle_async_request(request)
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            raise InputFailed(f"{self.what} cannot be reached: {error or type(error).__name__}") from error
        except (ValueError, TypeError) as error:
            raise InputFailed(f"{self.what}: it leads to something that is no URL") from error

    async def _authorize(self, challenge: str) -> None:
        scheme, _, rest = challenge.partition(" ")
        basic = None
        if self._login is not None:
            basic = "Basic " + base64.b64encode(":".join(self._login).encode()).decode()
        if scheme.lower() != "bearer":
            self._authorization = basic
            return
        told = dict(_CHALLENGE.findall(rest))
        scope = told.get("scope") or f"repository:{self._reference.name}:pull"
        query = urlencode({name: told[name] for name in ("service",) if name in told} | {"scope": scope})
        realm = told.get("realm", "")
        response = await self._ask(f"{realm}{'&' if '?' in realm else '?'}{query}", "application/json", basic)
        try:
            data = await bounded(response.aiter_stream(), MOST_JSON, "the registry's token")
            answer = json.loads(data) if response.status == 200 else {}
        except (ValueError, RecursionError):
            answer = {}
        finally:
            await response.aclose()
        token = (answer.get("token") or answer.get("access_token")) if isinstance(answer, dict) else None
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise InputFailed(f"{self.what}: the registry gives no token; it may want a login")
        self._authorization = f"Bearer {token}"


def _header(response: httpcore.Response, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in response.headers if key.lower() == name), "")
