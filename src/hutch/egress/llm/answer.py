"""Reading a provider's answer, and giving it on."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import aiohttp
from aiohttp import web

from hutch.egress.llm.refused import Refused

SHORT = 64 << 10
"""Up to here an answer that is not streamed is read whole; a longer one passes, and an outline of it is kept."""
MAX_OUTLINE = 512 << 10
_MAX_ERROR = 1 << 20


class BrokenOff(Exception):
    """The provider's answer ended before its end."""


async def chunks(upstream: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The answer as it comes. Only what goes wrong on the provider's side raises `BrokenOff`."""
    try:
        async for chunk in upstream.content.iter_any():
            yield chunk
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise BrokenOff(f"The model provider broke off its answer ({type(error).__name__}).") from error


async def beginning(parts: AsyncIterator[bytes]) -> tuple[bytes, bool]:
    """The beginning of an answer, and whether that is all of it."""
    found = bytearray()
    async for chunk in parts:
        found += chunk
        if len(found) > SHORT:
            return bytes(found), False
    return bytes(found), True


async def failure(upstream: aiohttp.ClientResponse) -> bytes:
    """A bounded answer that is an error."""
    parts, size = [], 0
    async for chunk in chunks(upstream):
        size += len(chunk)
        if size > _MAX_ERROR:
            raise Refused(502, f"The model provider's error is longer than {_MAX_ERROR >> 20} MiB.")
        parts.append(chunk)
    return b"".join(parts)


class Listener:
    """The client of a long answer. It may leave in the middle: the answer is then read to its end, to be counted."""

    def __init__(self, request: web.BaseRequest, status: int, headers: dict[str, str]) -> None:
        self._request = request
        self.response = web.StreamResponse(status=status, headers=headers)
        self._gone = False

    async def write(self, data: bytes, *, last: bool = False) -> None:
        """Gives it the next piece, if it is there."""
        if self._gone:
            return
        try:
            if not self.response.prepared:
                await self.response.prepare(self._request)
            if data:
                await self.response.write(data)
            if last:
                await self.response.write_eof()
        except ConnectionError:
            self._gone = True


def message(body: bytes) -> str:
    """What an error body says, for a person."""
    try:
        error = json.loads(body)["error"]
        return str(error["message"] if isinstance(error, dict) else error)[:500]
    except (ValueError, KeyError, TypeError, RecursionError):
        return body[:500].decode("utf-8", "replace")
