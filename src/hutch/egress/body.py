"""The body of a sandbox's request: bounded, passed on as it comes, and looked at only as far as the count needs."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator

from aiohttp import web

from hutch.egress.refused import Refused
from hutch.egress.usage import CHARACTERS_PER_TOKEN

MAX_REQUEST = 64 << 20

_MAX_REWRITE = 2 << 20
"""Largest body that is read whole to ask for usage in it; a larger one passes as it is, and is estimated."""
_MAX_ASSUMED = 200_000
_MODEL = re.compile(rb'"model"\s*:\s*"([A-Za-z0-9._:/@\[\]-]{1,128})"')
_ENCODED = re.compile(rb"[A-Za-z0-9+/=]{256,}")
"""Images are sent as base64, and cost little for their length."""


class RequestBody:
    """One request's body on its way through."""

    def __init__(self, request: web.BaseRequest) -> None:
        self._request = request
        self._characters = 0
        self.sent = False
        """All of it went to the provider."""
        self.too_large = False
        self.model: str | None = None
        """The model that the guest asked for. Its word, so it only serves where the provider's is missing."""
        length = request.content_length
        if length is not None and length > MAX_REQUEST:
            raise too_large()
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise Refused(415, "Compressed requests do not pass the gateway.")

    @property
    def tokens(self) -> int:
        """An estimate of what it costs to read it."""
        return min(self._characters // CHARACTERS_PER_TOKEN, _MAX_ASSUMED)

    async def prepare(self, headers: dict[str, str], ask_for_usage: bool) -> bytes | AsyncIterator[bytes] | None:
        """What to send; sets its length among `headers` where that is known."""
        if not self._request.can_read_body:
            return None
        length = self._request.content_length
        if ask_for_usage and length is not None and length <= _MAX_REWRITE:
            whole = b"".join([chunk async for chunk in self._chunks()])
            return await asyncio.to_thread(_ask_for_usage, whole)
        if length is not None:
            headers["content-length"] = str(length)
        return self._chunks()

    async def _chunks(self) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in self._request.content.iter_any():
            size += len(chunk)
            if size > MAX_REQUEST:
                self.too_large = True
                raise too_large()
            if self.model is None and (model := _MODEL.search(chunk)) is not None:
                self.model = model.group(1).decode()
            self._characters += len(_ENCODED.sub(b"", chunk))
            yield chunk
        self.sent = True


def too_large() -> Refused:
    """The answer to a body over the limit."""
    return Refused(413, f"A request may have at most {MAX_REQUEST >> 20} MiB.")


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
