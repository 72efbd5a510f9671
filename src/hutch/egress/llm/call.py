"""One call of a sandbox to its model provider: given the key, passed through, counted."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable

import aiohttp
import structlog
from aiohttp import web

from hutch.egress.llm import answer, terms
from hutch.egress.llm.account import STEP, Account, describe
from hutch.egress.llm.body import RequestBody
from hutch.egress.llm.entry import Entry
from hutch.egress.llm.hiding import UsageHider
from hutch.egress.llm.outline import Outline
from hutch.egress.llm.prices import Tokens
from hutch.egress.llm.providers import QUERY, Provider, Route
from hutch.egress.llm.purse import NOTHING
from hutch.egress.llm.redact import Redactor, redact
from hutch.egress.llm.refused import Refused
from hutch.egress.llm.room import Held
from hutch.model import LlmGrant

_ASSUMED_OUTPUT = 32_000
"""Tokens that an answer may have whose request does not say how many."""
_OUTPUT_RATE = 50
"""Tokens a second that a model is thought to have made of an answer that was broken off: its thoughts may be hidden."""

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
        path: str,
        held: Held,
    ) -> None:
        self._request = request
        self._account = account
        self._key = grant.key.get_secret_value()
        self._provider = provider
        self._route = route
        self._path = path
        self._held = held
        self._body = RequestBody(request, provider.api, held, reaches=grant.provider_tools)
        self._reader = provider.reader()
        self._entry = Entry()
        self._free = not route.metered
        """The provider charges nothing: it refused, or was not reached."""
        self._complete = False
        """The whole answer came."""
        self._sent_at = 0.0

    @property
    def goes_on(self) -> bool:
        """Whether it goes on when its client leaves: a provider makes an answer that is not streamed to its end, and
        charges for it, so that is waited for to know how much."""
        return self._route.metered and self._body.sent and not self._streams

    @property
    def _streams(self) -> bool:
        return self._route.streams or self._body.asked.stream

    async def run(self, session: aiohttp.ClientSession) -> web.StreamResponse:
        """Sends the request on and its answer back."""
        await self._body.look()
        if self._body.whole:
            await self._admit()
        upstream = await self._send(session)
        self._held.be(0)  # what was asked is on its way
        try:
            if 300 <= upstream.status < 400:
                self._free = True
                raise Refused(502, "The model provider answered with a redirect, which is not followed.")
            headers = self._answer_headers(upstream)
            if upstream.status >= 400:
                self._free = True
                return await self._refusal(upstream, headers)
            if self._route.metered:
                self._account.count_request(self._entry)
            if upstream.content_type == "text/event-stream":
                return await self._stream(upstream, headers, self._reader.feed, self._provider.error_event)
            if self._route.streams:
                return await self._stream(upstream, headers, self._reader.feed_array, self._reader.error_element)
            return await self._whole(upstream, headers)
        finally:
            upstream.close()  # a connection in the middle of an answer is not used again

    def settle(self) -> None:
        """Counts, at the end, what was not told: the provider also charges for an answer that is broken off. One that
        failed before it had used anything costs nothing."""
        self._held.be(0)
        reader = self._reader
        failed = reader.failed and not reader.told and not reader.tokens.output
        done = self._complete or reader.finished
        if self._free or failed:
            if self._entry.tokens != Tokens():
                self._account.count(self._entry, Tokens(), None)
        elif self._body.sent and not (done and reader.told):
            reader.assume(self._body.tokens, 0 if done else self._made())
            self._count()
        self._account.leave(self._entry)

    def _made(self) -> int:
        """Tokens that the model may have made until now, seen or not."""
        if not self._route.generates:
            return 0
        most = self._body.asked.max_output
        made = int((time.monotonic() - self._sent_at) * _OUTPUT_RATE)
        return made if most is None else min(made, most)

    async def _admit(self) -> None:
        """Stakes the most that it may cost; a stream is watched, so its output is staked step by step."""
        if not self._route.metered:
            return
        asked = self._body.asked
        found = self._route.path.fullmatch(self._path)
        in_path = found.groupdict().get("model") if found else None
        self._entry.asked_model = in_path or asked.model
        if self._account.in_dollars:
            price = self._account.price(self._entry)
            terms.check(asked, self._entry.asked_model, price, self._provider.final_status)
        output = asked.max_output if asked.max_output is not None else _ASSUMED_OUTPUT
        if self._streams:
            output = min(output, STEP)
        most = Tokens(self._body.tokens, output if self._route.generates else 0)
        await self._account.admit(self._entry, most, watched=self._streams)
        if self._account.exceeded is not None:
            raise Refused(self._provider.final_status, exceeded_message(self._account))

    async def _send(self, session: aiohttp.ClientSession) -> aiohttp.ClientResponse:
        allowed = self._provider.request_headers
        headers = {name: value for name, value in self._request.headers.items() if allowed.fullmatch(name.lower())}
        # identity: a compressed stream would have to be unpacked to be counted
        headers |= {"accept-encoding": "identity"} | self._provider.key_headers(self._key)
        query = {name: value for name, value in self._request.query.items() if name in QUERY}
        url = self._provider.base_url + self._path
        asks = self._route.streams_usage_on_demand
        data = await self._body.data(headers, ask_for_usage=asks, admit=self._admit)
        self._sent_at = time.monotonic()
        try:
            return await session.request(
                self._request.method,
                url,
                headers=headers,
                params=query | dict(self._provider.query),
                data=data,
                allow_redirects=False,
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            # one that was heard and is silent for a quarter of an hour may have worked all the time
            self._free = not isinstance(error, TimeoutError) or isinstance(error, aiohttp.ConnectionTimeoutError)
            if self._body.refused is not None:
                self._free = True
                raise self._body.refused from error
            log.warning("model provider cannot be reached", url=url, error=type(error).__name__)
            raise Refused(502, f"The model provider cannot be reached ({type(error).__name__}).") from error

    def _answer_headers(self, upstream: aiohttp.ClientResponse) -> dict[str, str]:
        allowed = self._provider.response_headers
        return {
            name: redact(value.encode(), self._key).decode()
            for name, value in upstream.headers.items()
            if allowed.fullmatch(name.lower())
        }

    async def _whole(self, upstream: aiohttp.ClientResponse, headers: dict[str, str]) -> web.StreamResponse:
        """An answer that is not streamed; what it says of usage is counted before its end is passed on."""
        parts = answer.chunks(upstream)
        try:
            begin, all_of_it = await answer.beginning(parts)
        except answer.BrokenOff as error:
            raise Refused(502, str(error)) from error
        if not all_of_it:
            return await self._long(begin, parts, answer.Listener(self._request, upstream.status, headers))
        await self._read(begin)
        redactor = Redactor(self._key)
        return web.Response(body=redactor.feed(begin) + redactor.end(), status=upstream.status, headers=headers)

    async def _long(self, piece: bytes, parts: AsyncIterator[bytes], listener: answer.Listener) -> web.StreamResponse:
        """One that is too long to be held, such as embeddings."""
        outline, redactor = Outline(answer.MAX_OUTLINE), Redactor(self._key)
        try:
            async for following in parts:
                outline.feed(piece)
                self._held.be(outline.held)
                await listener.write(redactor.feed(piece))
                piece = following
        except answer.BrokenOff as error:
            raise ConnectionResetError(str(error)) from error  # all that is left to tell the client
        outline.feed(piece)
        await self._read(outline.end(), cut=outline.cut)
        await listener.write(redactor.feed(piece) + redactor.end(), last=True)
        return listener.response

    async def _read(self, body: bytes, *, cut: bool = False) -> None:
        """Counts a whole answer, or the outline of one."""
        self._complete = True
        if self._route.metered:
            self._reader.read(body, cut=cut)
            self._count()
            await self._account.write()

    async def _refusal(self, upstream: aiohttp.ClientResponse, headers: dict[str, str]) -> web.Response:
        try:
            body, status = redact(await answer.failure(upstream), self._key), upstream.status
        except answer.BrokenOff as error:
            raise Refused(502, str(error)) from error
        # a key may be good and still not be allowed to list models
        if status == 401 or (status == 403 and self._route.metered):
            log.warning("model provider refused the key", sandbox=self._account.sandbox, status=status)
            await self._account.write_auth_failure(status, answer.message(body))
            # trying again with the same key helps nobody, and some clients would do so for minutes
            headers = {name: value for name, value in headers.items() if name.lower() != "x-should-retry"}
            headers["x-should-retry"] = "false"
        return web.Response(body=body, status=status, headers=headers)

    async def _stream(
        self,
        upstream: aiohttp.ClientResponse,
        headers: dict[str, str],
        feed: Callable[[bytes], None],
        failure: Callable[[str], bytes],
    ) -> web.StreamResponse:
        response = web.StreamResponse(status=upstream.status, headers=headers | {"cache-control": "no-cache"})
        await response.prepare(self._request)
        redactor = Redactor(self._key)
        hider = UsageHider() if self._body.hides_usage else None
        last = b""
        try:
            async for chunk in answer.chunks(upstream):
                feed(chunk)
                self._held.be(self._reader.held + (hider.held if hider is not None else 0))
                if (stop := await self._follow()) is not None:
                    last = failure(stop)
                    break
                shown = redactor.feed(chunk)
                shown = hider.feed(shown) if hider is not None else shown
                if shown:
                    await response.write(shown)
            else:
                self._complete = True
        except answer.BrokenOff as error:
            log.info("model provider broke off a stream", sandbox=self._account.sandbox, error=str(error))
            last = failure(str(error))
        rest = redactor.end() if self._complete else b""  # cut off: perhaps in the middle of the key
        await response.write((hider.feed(rest) + hider.end() if hider is not None else rest) + last)
        await response.write_eof()
        return response

    async def _follow(self) -> str | None:
        """Counts a chunk before it is passed on; why the stream ends here, when a budget does not let it go on."""
        account, entry, reader = self._account, self._entry, self._reader
        first, said = entry.tokens.total == 0, entry.unsaid == NOTHING
        if reader.tokens != entry.tokens:
            self._count()
            if first:
                account.write_soon()
        if reader.told and not said:
            account.expect(entry)  # what went in is known now, and was only guessed before
        if reader.finished:
            await account.write()
            return None
        if account.exceeded is not None:
            await account.write()
            return exceeded_message(account)
        if account.squeezed(entry):
            return "What is left of a budget is in use by other calls. Try again in a moment."
        if account.outgrown(entry):
            account.expect(entry)
            try:
                account.secure()
            except OSError as error:
                log.error("llm ledger cannot be written", sandbox=account.sandbox, error=describe(error))
        return None

    def _count(self) -> None:
        self._account.count(self._entry, self._reader.tokens, self._reader.model)
        if self._reader.told:
            self._entry.unsaid = NOTHING


_PARTS = {
    "llm_usd": ("task", "dollars"),
    "llm_tokens": ("task", "tokens"),
    "org_day_usd": ("organisation for this day", "dollars"),
    "org_day_tokens": ("organisation for this day", "tokens"),
    "org_month_usd": ("organisation for this month", "dollars"),
    "org_month_tokens": ("organisation for this month", "tokens"),
}


def exceeded_message(account: Account) -> str:
    """What a sandbox is told whose budget is used up."""
    exceeded = account.exceeded or {"part": "llm_tokens", "limit": 0}
    whose, unit = _PARTS[exceeded["part"]]
    return f"The budget of this {whose} is used up: {exceeded['limit']} {unit}. Do not try again."
