"""One call of a sandbox to its model provider: checked, given the key, passed through, counted."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator

import aiohttp
import structlog
from aiohttp import web

from hutch.egress.account import Account, Entry
from hutch.egress.providers import QUERY, Provider, Route
from hutch.egress.redact import Redactor, redact
from hutch.egress.usage import CHARACTERS_PER_TOKEN
from hutch.model import LlmGrant

MAX_REQUEST = 64 << 20
MAX_ANSWER = 32 << 20
"""Largest answer that is not streamed."""

_MAX_REWRITE = 2 << 20
"""Largest body that is read whole to ask for usage in it; a larger one passes as it is, and is estimated."""
_MAX_ASSUMED = 200_000
_MODEL = re.compile(rb'"model"\s*:\s*"([A-Za-z0-9._:/@\[\]-]{1,128})"')
_ENCODED = re.compile(rb"[A-Za-z0-9+/=]{256,}")

log = structlog.get_logger(__name__)


class Refused(Exception):
    """A call that does not go to the provider."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class _BrokenOff(Exception):
    """The provider's answer ended before its end."""


class Call:
    """One call that has passed the checks. Every exit has counted what the provider will charge for."""

    def __init__(self, account: Account, grant: LlmGrant, provider: Provider, route: Route, url: str) -> None:
        self._account = account
        self._key = grant.key.get_secret_value()
        self._provider = provider
        self._route = route
        self._url = url
        self._reader = provider.reader()
        self._entry = Entry()
        self._characters = 0
        self._sent = False
        self._failed = False
        self._too_large = False
        self._asked_model: str | None = None

    async def run(self, request: web.BaseRequest, session: aiohttp.ClientSession) -> web.StreamResponse:
        """Sends `request` on and its answer back."""
        try:
            headers = self._headers(request)
            body = await self._body(request, headers)
            upstream = await session.request(
                request.method,
                self._url,
                headers=headers,
                params={name: value for name, value in request.query.items() if name in QUERY},
                data=body,
                allow_redirects=False,
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self._failed = True
            if self._too_large:
                raise _too_large() from error
            log.warning("model provider cannot be reached", url=self._url, error=type(error).__name__)
            raise Refused(502, f"The model provider cannot be reached ({type(error).__name__}).") from error
        try:
            return await self._answer(request, upstream)
        finally:
            upstream.close()  # a connection in the middle of an answer is not used again

    def settle(self) -> None:
        """Counts, at the end, what was not told: the provider also charges for an answer that is broken off."""
        if self._route.metered and self._sent and not self._failed and not self._reader.told:
            self._reader.assume_input(min(self._characters // CHARACTERS_PER_TOKEN, _MAX_ASSUMED))
            self._count()

    def _headers(self, request: web.BaseRequest) -> dict[str, str]:
        allowed = self._provider.request_headers
        headers = {name: value for name, value in request.headers.items() if allowed.fullmatch(name.lower())}
        # identity: a compressed stream would have to be unpacked to be counted
        return headers | {"accept-encoding": "identity"} | self._provider.key_headers(self._key)

    async def _body(self, request: web.BaseRequest, headers: dict[str, str]) -> bytes | AsyncIterator[bytes] | None:
        """The body to send; sets its length among `headers` when it is known."""
        length = request.content_length
        if length is not None and length > MAX_REQUEST:
            raise _too_large()
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise Refused(415, "Compressed requests do not pass the gateway.")
        if not request.can_read_body:
            return None
        if self._route.streams_usage_on_demand and length is not None and length <= _MAX_REWRITE:
            whole = b"".join([chunk async for chunk in self._pass(request)])
            return await asyncio.to_thread(_ask_for_usage, whole)
        if length is not None:
            headers["content-length"] = str(length)
        return self._pass(request)

    async def _pass(self, request: web.BaseRequest) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in request.content.iter_any():
            size += len(chunk)
            if size > MAX_REQUEST:
                self._too_large = True
                raise _too_large()
            if self._asked_model is None and (model := _MODEL.search(chunk)) is not None:
                self._asked_model = model.group(1).decode()
            # images are sent as base64 and cost little for their length
            self._characters += len(_ENCODED.sub(b"", chunk))
            yield chunk
        self._sent = True

    async def _answer(self, request: web.BaseRequest, upstream: aiohttp.ClientResponse) -> web.StreamResponse:
        if self._route.metered and upstream.status < 300:
            self._account.count_request()
        elif 300 <= upstream.status < 400:
            self._failed = True
            raise Refused(502, "The model provider answered with a redirect, which is not followed.")
        else:
            self._failed = upstream.status >= 400
        allowed = self._provider.response_headers
        headers = {
            name: redact(value.encode(), self._key).decode()
            for name, value in upstream.headers.items()
            if allowed.fullmatch(name.lower())
        }
        if upstream.content_type == "text/event-stream" and upstream.status == 200:
            return await self._stream(request, upstream, headers)
        return await self._whole(upstream, headers)

    async def _whole(self, upstream: aiohttp.ClientResponse, headers: dict[str, str]) -> web.Response:
        try:
            body = await _read(upstream)
        except _BrokenOff as error:
            raise Refused(502, f"The model provider broke off its answer ({error}).") from error
        if upstream.status >= 400:
            return await self._refusal(upstream.status, redact(body, self._key), headers)
        if self._route.metered:
            self._reader.read(body)
            self._count()
            await self._account.write()
        redactor = Redactor(self._key)
        return web.Response(body=redactor.feed(body) + redactor.end(), status=upstream.status, headers=headers)

    async def _refusal(self, status: int, body: bytes, headers: dict[str, str]) -> web.Response:
        # a key may be good and still not be allowed to list models
        if status == 401 or (status == 403 and self._route.metered):
            message = _message(body)
            log.warning("model provider refused the key", sandbox=self._account.sandbox, status=status)
            await self._account.write_auth_failure(status, message)
            # trying again with the same key helps nobody, and some clients would do so for minutes
            headers = {name: value for name, value in headers.items() if name.lower() != "x-should-retry"}
            headers["x-should-retry"] = "false"
        return web.Response(body=body, status=status, headers=headers)

    async def _stream(
        self, request: web.BaseRequest, upstream: aiohttp.ClientResponse, headers: dict[str, str]
    ) -> web.StreamResponse:
        response = web.StreamResponse(status=upstream.status, headers=headers | {"cache-control": "no-cache"})
        await response.prepare(request)
        redactor = Redactor(self._key)
        try:
            async for chunk in _chunks(upstream):
                if not await self._follow(chunk):
                    await response.write(self._provider.error_event(exceeded_message(self._account)))
                    await response.write_eof()
                    return response
                await response.write(redactor.feed(chunk))
        except _BrokenOff as error:
            log.info("model provider broke off a stream", sandbox=self._account.sandbox, error=str(error))
            await response.write(self._provider.error_event(f"The model provider broke off its answer ({error})."))
        await response.write(redactor.end())
        await response.write_eof()
        return response

    async def _follow(self, chunk: bytes) -> bool:
        """Counts a chunk before it is passed on; False when the budget is used up and the stream ends here."""
        first = not self._reader.told and self._entry.tokens.total == 0
        self._reader.feed(chunk)
        if self._reader.tokens != self._entry.tokens:
            self._count()
            if first:
                self._account.write_soon()
        exceeded = self._account.exceeded is not None
        if self._reader.finished or exceeded:
            await self._account.write()
        return self._reader.finished or not exceeded

    def _count(self) -> None:
        """Adds what is new to the account. The model is the provider's word; the guest's serves where an answer was
        broken off before that."""
        self._account.count(self._entry, self._reader.tokens, self._reader.model or self._asked_model)


def exceeded_message(account: Account) -> str:
    """What a sandbox is told whose budget is used up."""
    exceeded = account.exceeded or {"part": "llm", "limit": 0}
    unit = "dollars" if exceeded["part"] == "llm_usd" else "tokens"
    return f"The budget of this task is used up: {exceeded['limit']} {unit}. Do not try again."


def _too_large() -> Refused:
    return Refused(413, f"A request may have at most {MAX_REQUEST >> 20} MiB.")


async def _chunks(upstream: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    try:
        async for chunk in upstream.content.iter_any():
            yield chunk
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise _BrokenOff(type(error).__name__) from error


async def _read(upstream: aiohttp.ClientResponse) -> bytes:
    parts, size = [], 0
    async for chunk in _chunks(upstream):
        size += len(chunk)
        if size > MAX_ANSWER:
            raise Refused(502, f"The model provider's answer is longer than {MAX_ANSWER >> 20} MiB.")
        parts.append(chunk)
    return b"".join(parts)


def _ask_for_usage(body: bytes) -> bytes:
    """The same request, asking for usage at the end of the stream. What is no JSON object passes as it is."""
    try:
        request = json.loads(body)
    except (ValueError, RecursionError):
        return body
    if not isinstance(request, dict) or request.get("stream") is not True:
        return body
    options = request.get("stream_options")
    request["stream_options"] = (options if isinstance(options, dict) else {}) | {"include_usage": True}
    return json.dumps(request).encode()


def _message(body: bytes) -> str:
    try:
        error = json.loads(body)["error"]
        return str(error["message"] if isinstance(error, dict) else error)[:500]
    except (ValueError, KeyError, TypeError, RecursionError):
        return body[:500].decode("utf-8", "replace")
