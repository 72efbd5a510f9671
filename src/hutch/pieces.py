"""Streams of bytes that come from blocking code."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator

_PIECE = 1 << 20


async def in_pieces(parts: Iterator[bytes]) -> AsyncGenerator[bytes, None]:
    """What a blocking iterator gives, from another thread, and in pieces of about a MiB: each costs a trip to it."""

    def gather() -> bytes:
        piece = bytearray()
        for part in parts:
            piece += part
            if len(piece) >= _PIECE:
                break
        return bytes(piece)

    while piece := await asyncio.to_thread(gather):
        yield piece
