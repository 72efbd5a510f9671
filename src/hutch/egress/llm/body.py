"""The body of a sandbox's request: bounded, passed on as it comes, and looked at only as far as the count needs."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from hutch.egress.llm.refused import Refused
from hutch.egress.llm.usage import CHARACTERS_PER_TOKEN, count, mapping

MAX_REQUEST = 64 << 20

_MAX_WHOLE = 2 << 20
"""Largest body that is read whole before it is sent. Of a larger one the model is all that is looked for."""
_SMALL = 64 << 10
"""Up to here it is parsed at once; a larger one in a thread."""
_MAX_ASSUMED = 200_000
_MODEL = re.compile(rb'"model"\s*:\s*"([A-Za-z0-9._:/@\[\]-]{1,128})"')
_ENCODED = re.compile(rb"[A-Za-z0-9+/=]{256,}")
"""Images are sent as base64, and cost little for their length."""
_OUTPUT_FIELDS = ("max_tokens", "max_completion_tokens", "max_output_tokens")


@dataclass(frozen=True)
class Asked:
    """What a request says of itself: the guest's word, so it serves only for estimates, and for what concerns nobody
    but the guest."""

    model: str | None = None
    stream: bool = False
    max_output: int | None = None
    """Most tokens that the answer may have, all its choices together; None when it does not say."""
    usage: bool = True
    """It wants to be told the usage of a streamed answer."""


class RequestBody:
    """One request's body on its way through."""

    def __init__(self, request: web.BaseRequest) -> None:
        self._request = request
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
                self._begin.append(chunk)
                if size > _MAX_WHOLE:
                    return
            self._whole = True
            body = b"".join(self._begin)
            self._begin = [body]
            self._measure(body)
            self.asked = await self._parsed(_asked)

    async def ask_for_usage(self) -> None:
        """Asks the provider to tell the usage of the answer that it streams, where that is known to be needed."""
        if self._whole and self.asked.stream and not self.asked.usage:
            self._begin = [await self._parsed(_with_usage)]
            self.hides_usage = True

    def data(self, headers: dict[str, str]) -> bytes | AsyncIterator[bytes] | None:
        """What to send; sets its length among `headers` where that is known."""
        if self._whole:
            self.sent = True  # what is whole here is on its way before anybody could take it back
            return self._begin[0] if self._begin else None
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


def _asked(body: bytes) -> Asked:
    request = _object(body)
    model = request.get("model")
    config = mapping(request.get("generationConfig") or request.get("generation_config"))
    limits = [count(request.get(name), -1) for name in _OUTPUT_FIELDS]
    limits.append(count(config.get("maxOutputTokens", config.get("max_output_tokens")), -1))
    choices = max(1, count(request.get("n")), count(config.get("candidateCount", config.get("candidate_count"))))
    most = max(limits)
    return Asked(
        model=model[:128] if isinstance(model, str) else None,
        stream=request.get("stream") is True,
        max_output=most * choices if most >= 0 else None,
        usage=mapping(request.get("stream_options")).get("include_usage") is True,
    )


def _with_usage(body: bytes) -> bytes:
    request = _object(body)
    request["stream_options"] = mapping(request.get("stream_options")) | {"include_usage": True}
    return json.dumps(request).encode()


def _object(body: bytes) -> dict[str, Any]:
    try:
        return mapping(json.loads(body))
    except (ValueError, RecursionError):
        return {}
