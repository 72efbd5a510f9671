"""The body of a sandbox's request: bounded, passed on as it comes, and looked at only as far as the count needs."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

from aiohttp import web

from hutch.egress.llm.asked import Asked, read
from hutch.egress.llm.fields import parse
from hutch.egress.llm.outline import Outline
from hutch.egress.llm.refused import Refused
from hutch.egress.llm.room import Held
from hutch.egress.llm.usage import CHARACTERS_PER_TOKEN, mapping
from hutch.model import LlmApi

MAX_REQUEST = 64 << 20

_MAX_WHOLE = 2 << 20
"""Largest body that is read whole before it is sent. Of a larger one an outline is kept while it passes."""
_MAX_OUTLINE = 2 << 20
_TOO_MUCH = f"A request may have at most {_MAX_OUTLINE >> 20} MiB beside its long texts."
_MAX_BLANKS = 1 << 20
_ASK = b',"stream_options":{"include_usage":true}'
_SMALL = 64 << 10
"""Up to here it is parsed at once; a larger one in a thread."""
_MAX_ASSUMED = 200_000
_ENCODED = re.compile(rb"[A-Za-z0-9+/=]{256,}")
"""Images are sent as base64, and cost little for their length."""


class RequestBody:
    """One request's body on its way through."""

    def __init__(self, request: web.BaseRequest, api: LlmApi, held: Held, *, reaches: bool) -> None:
        self._request = request
        self._api = api
        self._held = held
        self._reaches = reaches
        self._characters = 0
        self._begin: list[bytes] = []
        self.whole = False
        """All of it is here, and `asked` is known."""
        self.sent = False
        """All of it went to the provider."""
        self.refused: Refused | None = None
        """Why its end was not sent."""
        self.hides_usage = False
        """The gateway has asked for usage that the guest has not."""
        self.asked = Asked()
        length = request.content_length
        if length is not None and length > MAX_REQUEST:
            raise too_large()
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise Refused(415, "Compressed requests do not pass the gateway.")

    @property
    def tokens(self) -> int:
        """An estimate of what it costs to read it."""
        return min(self._characters // CHARACTERS_PER_TOKEN, _MAX_ASSUMED)

    async def look(self) -> None:
        """Reads it, or the beginning of a large one, to know what is asked."""
        if not self._request.can_read_body:
            self.whole = True
            return
        length, size = self._request.content_length, 0
        if length is None or length <= _MAX_WHOLE:
            async for chunk in self._request.content.iter_any():
                size += len(chunk)
                self._held.ask(size)
                self._begin.append(chunk)
                if size > _MAX_WHOLE:
                    return
            self.whole = True
            body = b"".join(self._begin)
            self._begin = [body]
            self._measure(body)
            self.asked = await self._parsed(partial(_asked, api=self._api, reaches=self._reaches))

    async def data(
        self, headers: dict[str, str], *, ask_for_usage: bool, admit: Callable[[], Awaitable[None]]
    ) -> bytes | AsyncIterator[bytes] | None:
        """What to send; sets its length among `headers` where that is known. `admit` is called, and may refuse, when
        all of a large body is known and before the provider has its end. `ask_for_usage`: the provider tells the usage
        of a stream only when it is asked to."""
        if not self.whole:
            length = self._request.content_length
            if length is not None:
                headers["content-length"] = str(length + (len(_ASK) if ask_for_usage else 0))
            return self._chunks(ask_for_usage, admit)
        if ask_for_usage and self.asked.stream and not self.asked.usage:
            self._begin = [await self._parsed(_with_usage)]
            self.hides_usage = True
        self.sent = True  # what is whole here is on its way before anybody could take it back
        begin, self._begin = self._begin, []
        return begin[0] if begin else None

    async def _chunks(self, ask_for_usage: bool, admit: Callable[[], Awaitable[None]]) -> AsyncIterator[bytes]:
        """All but the last piece goes on while it is looked at: a provider begins when it has the end."""
        outline, last = Outline(_MAX_OUTLINE), b""
        try:
            async for chunk in self._pieces():
                self._measure(chunk)
                outline.feed(chunk)
                if outline.cut:
                    raise Refused(413, _TOO_MUCH)
                if chunk.isspace() and len(last) < _MAX_BLANKS:
                    last += chunk  # so that the last one has the closing brace
                    continue
                if last:
                    yield last
                last = chunk
                self._held.ask(outline.held + len(last) + sum(map(len, self._begin)))
            self.asked = await asyncio.to_thread(_asked, outline.end(), self._api, self._reaches)
            await admit()
            last = self._ending(last) if ask_for_usage else last
        except Refused as refused:
            self.refused = refused
            raise
        self.sent = True
        yield last

    async def _pieces(self) -> AsyncIterator[bytes]:
        size = 0
        while self._begin:
            chunk = self._begin.pop(0)
            size += len(chunk)
            yield chunk
        async for chunk in self._request.content.iter_any():
            size += len(chunk)
            if size > MAX_REQUEST:
                raise too_large()
            yield chunk

    def _ending(self, last: bytes) -> bytes:
        """The last piece, with the question for the usage in it, or as many blanks: the length is promised."""
        brace = len(last.rstrip()) - 1
        if not self.asked.stream or self.asked.usage or last[brace : brace + 1] != b"}":
            return last + b" " * len(_ASK)
        if self.asked.stream_options:
            raise Refused(
                400,
                f"A streamed request above {_MAX_WHOLE >> 20} MiB has to ask for its usage: set "
                "`stream_options.include_usage` to true, or leave `stream_options` out.",
                field="stream_options",
            )
        self.hides_usage = True
        return last[:brace] + _ASK + last[brace:]

    def _measure(self, chunk: bytes) -> None:
        self._characters += len(_ENCODED.sub(b"", chunk))

    async def _parsed(self, work: Any) -> Any:
        body = self._begin[0]
        return work(body) if len(body) <= _SMALL else await asyncio.to_thread(work, body)


def too_large() -> Refused:
    """The answer to a body over the limit."""
    return Refused(413, f"A request may have at most {MAX_REQUEST >> 20} MiB.")


def _asked(body: bytes, api: LlmApi, reaches: bool) -> Asked:
    return read(parse(body), api, reaches=reaches)


def _with_usage(body: bytes) -> bytes:
    request = parse(body)
    request["stream_options"] = mapping(request.get("stream_options")) | {"include_usage": True}
    return json.dumps(request).encode()
