"""One call of a sandbox to its model provider: given the key, passed through, counted."""

from __future__ import annotations

import aiohttp
import structlog
from aiohttp import web

from hutch.egress import answer
from hutch.egress.account import Account, Entry
from hutch.egress.body import RequestBody, too_large
from hutch.egress.providers import QUERY, Provider, Route
from hutch.egress.redact import Redactor, redact
from hutch.egress.refused import Refused
from hutch.model import LlmGrant

log = structlog.get_logger(__name__)


class Call:
    """One call that has passed the checks. Every exit has counted what the provider will charge for."""

    def __init__(
        self,
        request: web.BaseRequest,
        account: Account,
        grant: LlmGrant,
        provider: Provider,
        route: Route,
        url: str,
    ) -> None:
        self._request = request
        self._account = account
        self._key = grant.key.get_secret_value()
        self._provider = provider
        self._route = route
        self._url = url
        self._body = RequestBody(request)
        self._reader = provider.reader()
        self._entry = Entry()
        self._free = not route.metered
        """The provider charges nothing: it refused, or was not reached."""

    async def run(self, session: aiohttp.ClientSession) -> web.StreamResponse:
        """Sends the request on and its answer back."""
        upstream = await self._send(session)
        try:
            if 300 <= upstream.status < 400:
                self._free = True
                raise Refused(502, "The model provider answered with a redirect, which is not followed.")
            headers = self._answer_headers(upstream)
            if upstream.status >= 400:
                self._free = True
                return await self._refusal(upstream, headers)
            if self._route.metered:
                self._account.count_request()
            if upstream.content_type == "text/event-stream":
                return await self._stream(upstream, headers)
            return await self._whole(upstream, headers)
        finally:
            upstream.close()  # a connection in the middle of an answer is not used again

    def settle(self) -> None:
        """Counts, at the end, what was not told: the provider also charges for an answer that is broken off."""
        if not self._free and self._body.sent and not self._reader.told:
            self._reader.assume_input(self._body.tokens)
            self._count()

    async def _send(self, session: aiohttp.ClientSession) -> aiohttp.ClientResponse:
        allowed = self._provider.request_headers
        headers = {name: value for name, value in self._request.headers.items() if allowed.fullmatch(name.lower())}
        # identity: a compressed stream would have to be unpacked to be counted
        headers |= {"accept-encoding": "identity"} | self._provider.key_headers(self._key)
        try:
            return await session.request(
                self._request.method,
                self._url,
                headers=headers,
                params={name: value for name, value in self._request.query.items() if name in QUERY},
                data=await self._body.prepare(headers, self._route.streams_usage_on_demand),
                allow_redirects=False,
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self._free = True
            if self._body.too_large:
                raise too_large() from error
            log.warning("model provider cannot be reached", url=self._url, error=type(error).__name__)
            raise Refused(502, f"The model provider cannot be reached ({type(error).__name__}).") from error

    def _answer_headers(self, upstream: aiohttp.ClientResponse) -> dict[str, str]:
        allowed = self._provider.response_headers
        return {
            name: redact(value.encode(), self._key).decode()
            for name, value in upstream.headers.items()
            if allowed.fullmatch(name.lower())
        }

    async def _whole(self, upstream: aiohttp.ClientResponse, headers: dict[str, str]) -> web.Response:
        body = await self._read(upstream)
        if self._route.metered:
            self._reader.read(body)
            self._count()
            await self._account.write()
        redactor = Redactor(self._key)
        return web.Response(body=redactor.feed(body) + redactor.end(), status=upstream.status, headers=headers)

    async def _refusal(self, upstream: aiohttp.ClientResponse, headers: dict[str, str]) -> web.Response:
        body, status = redact(await self._read(upstream), self._key), upstream.status
        # a key may be good and still not be allowed to list models
        if status == 401 or (status == 403 and self._route.metered):
            log.warning("model provider refused the key", sandbox=self._account.sandbox, status=status)
            await self._account.write_auth_failure(status, answer.message(body))
            # trying again with the same key helps nobody, and some clients would do so for minutes
            headers = {name: value for name, value in headers.items() if name.lower() != "x-should-retry"}
            headers["x-should-retry"] = "false"
        return web.Response(body=body, status=status, headers=headers)

    async def _read(self, upstream: aiohttp.ClientResponse) -> bytes:
        try:
            return await answer.whole(upstream)
        except answer.BrokenOff as error:
            raise Refused(502, str(error)) from error

    async def _stream(self, upstream: aiohttp.ClientResponse, headers: dict[str, str]) -> web.StreamResponse:
        response = web.StreamResponse(status=upstream.status, headers=headers | {"cache-control": "no-cache"})
        await response.prepare(self._request)
        redactor = Redactor(self._key)
        last = b""
        try:
            async for chunk in answer.chunks(upstream):
                if not await self._follow(chunk):
                    last = self._provider.error_event(exceeded_message(self._account))
                    break
                await response.write(redactor.feed(chunk))
        except answer.BrokenOff as error:
            log.info("model provider broke off a stream", sandbox=self._account.sandbox, error=str(error))
            last = self._provider.error_event(str(error))
        await response.write(redactor.end() + last)
        await response.write_eof()
        return response

    async def _follow(self, chunk: bytes) -> bool:
        """Counts a chunk before it is passed on; False when the budget is used up and the stream ends here."""
        first = self._entry.tokens.total == 0
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
        self._account.count(self._entry, self._reader.tokens, self._reader.model or self._body.model)


def exceeded_message(account: Account) -> str:
    """What a sandbox is told whose budget is used up."""
    exceeded = account.exceeded or {"part": "llm", "limit": 0}
    unit = "dollars" if exceeded["part"] == "llm_usd" else "tokens"
    return f"The budget of this task is used up: {exceeded['limit']} {unit}. Do not try again."
