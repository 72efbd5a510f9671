"""The body of a sandbox's request: bounded, passed on as it comes, and looked at only as far as the count needs."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from aiohttp import web

from hutch.egress.llm.asked import Asked, read
from hutch.egress.llm.fields import parse
from hutch.egress.llm.refused import Refused
from hutch.egress.llm.room import Held
from hutch.egress.llm.usage import CHARACTERS_PER_TOKEN, mapping
from hutch.model import LlmApi

MAX_REQUEST = 64 << 20

_MAX_WHOLE = 2 << 20
"""Largest body that is read whole before it is sent. Of a larger one the model is all that is looked for."""
_SMALL = 64 << 10
"""Up to here it is parsed at once; a larger one in a thread."""
_MAX_ASSUMED = 200_000
_MODEL = re.compile(rb'"model"\s*:\s*"([A-Za-z0-9._:/@\[\]-]{1,128})"')
_ENCODED = re.compile(rb"[A-Za-z0-9+/=]{256,}")
"""Images are sent as base64, and cost little for their length."""


class RequestBody:
    """One request's body on its way through."""

    def __init__(self, request: web.BaseRequest, api: LlmApi, held: Held) -> None:
        self._request = request
        self._api = api
        self._held = held
        self._characters = 0
        self._begin: list[bytes] = []
        self._whole = False
        self.sent = False
        """All of it went to the provider."""
        self.too_large = False
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
            self._whole = True
            return
        length, size = self._request.content_length, 0
        if length is None or length <= _MAX_WHOLE:
            async for chunk in self._request.content.iter_any():
                size += len(chunk)
                self._held.grow(len(chunk))
                self._begin.append(chunk)
                if size > _MAX_WHOLE:
                    return
            self._whole = True
            body = b"".join(self._begin)
            self._begin = [body]
            self._measure(body)
            self.asked = await self._parsed(partial(_asked, api=self._api))

    async def ask_for_usage(self) -> None:
        """Asks the provider to tell the usage of the answer that it streams, where that is known to be needed."""
        if self._whole and self.asked.stream and not self.asked.usage:
            self._begin = [await self._parsed(_with_usage)]
            self.hides_usage = True

    def data(self, headers: dict[str, str]) -> bytes | AsyncIterator[bytes] | None:
        """What to send; sets its length among `headers` where that is known."""
        if self._whole:
            self.sent = True  # what is whole here is on its way before anybody could take it back
            begin, self._begin = self._begin, []
            return begin[0] if begin else None
        if self._request.content_length is not None:
            headers["content-length"] = str(self._request.content_length)
        return self._chunks()

    async def _chunks(self) -> AsyncIterator[bytes]:
        size = 0
        begin, self._begin = self._begin, []
        for chunk in begin:
            size += len(chunk)
            self._note(chunk)
            yield chunk
        async for chunk in self._request.content.iter_any():
            size += len(chunk)
            if size > MAX_REQUEST:
                self.too_large = True
                raise too_large()
            self._note(chunk)
            yield chunk
        self.sent = True

    def _note(self, chunk: bytes) -> None:
        if self.asked.model is None and (model := _MODEL.search(chunk)) is not None:
            self.asked = Asked(model=model.group(1).decode())
        self._measure(chunk)

    def _measure(self, chunk: bytes) -> None:
        self._characters += len(_ENCODED.sub(b"", chunk))

    async def _parsed(self, work: Any) -> Any:
        body = self._begin[0]
        return work(body) if len(body) <= _SMALL else await asyncio.to_thread(work, body)


def too_large() -> Refused:
    """The answer to a body over the limit."""
    return Refused(413, f"A request may have at most {MAX_REQUEST >> 20} MiB.")


def _asked(body: bytes, api: LlmApi) -> Asked:
    return read(parse(body), api)


def _with_usage(body: bytes) -> bytes:
    request = parse(body)
    request["stream_options"] = mapping(request.get("stream_options")) | {"include_usage": True}
    return json.dumps(request).encode()
