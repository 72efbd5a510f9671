"""Reading a provider's answer."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import aiohttp

from hutch.egress.llm.refused import Refused

MAX_ANSWER = 32 << 20
"""Largest answer that is not streamed."""


class BrokenOff(Exception):
    """The provider's answer ended before its end."""


async def chunks(upstream: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The answer as it comes. Only what goes wrong on the provider's side raises `BrokenOff`."""
    try:
        async for chunk in upstream.content.iter_any():
            yield chunk
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise BrokenOff(f"The model provider broke off its answer ({type(error).__name__}).") from error


async def whole(upstream: aiohttp.ClientResponse) -> bytes:
    """A bounded answer."""
    parts, size = [], 0
    async for chunk in chunks(upstream):
        size += len(chunk)
        if size > MAX_ANSWER:
            raise Refused(502, f"The model provider's answer is longer than {MAX_ANSWER >> 20} MiB.")
        parts.append(chunk)
    return b"".join(parts)


def message(body: bytes) -> str:
    """What an error body says, for a person."""
    try:
        error = json.loads(body)["error"]
        return str(error["message"] if isinstance(error, dict) else error)[:500]
    except (ValueError, KeyError, TypeError, RecursionError):
        return body[:500].decode("utf-8", "replace")
