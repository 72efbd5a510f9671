"""The seal of an exported snapshot: only what a node with the same key has exported is taken in.

A memory image is no data: its processes go on in whoever's sandbox it becomes, and the kernel of that sandbox believes
what stands in it about itself. Who could make one up would have got through gVisor's first wall.

The seal stands behind the archive, where `tar` looks no more: `HUTCH-SEAL-1 ` and the HMAC-SHA256 of all before it in
hexadecimal, with spaces to 128 bytes and the last of them a line feed.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

from hutch.errors import InternalError, InvalidArchive
from hutch.node.home import write_atomic

SEAL_BYTES = 128
_MAGIC = b"HUTCH-SEAL-1 "
_KEY_BYTES = 32
_LARGE = 256 << 10
"""Bytes whose digest is made in a thread."""


def archive_key(path: Path) -> bytes:
    """The key in this file; made when there is none. Nodes that are to take each other's snapshots have the same.
    Raises `InternalError`."""
    if not path.exists():
        write_atomic(path, secrets.token_hex(_KEY_BYTES).encode() + b"\n", durable=True)
    try:
        key = bytes.fromhex(path.read_text().strip())
    except ValueError:
        key = b""
    if len(key) != _KEY_BYTES:
        raise InternalError(f"{path} does not hold a key (64 hexadecimal digits): restore it, or remove it")
    return key


async def sealed(archive: AsyncIterator[bytes], key: bytes) -> AsyncGenerator[bytes, None]:
    """The archive, and its seal."""
    mac = hmac.new(key, digestmod=hashlib.sha256)
    async for piece in archive:
        await _update(mac, piece)
        yield piece
    yield _seal(mac)


async def unsealed(stream: AsyncIterator[bytes], key: bytes) -> AsyncGenerator[bytes, None]:
    """The archive without its seal. Raises `InvalidArchive` at the end, when the seal is not one of this key: what came
    before is not to be believed until then."""
    mac = hmac.new(key, digestmod=hashlib.sha256)
    held = b""
    async for piece in stream:
        held += piece
        if len(held) > SEAL_BYTES:
            archive, held = held[:-SEAL_BYTES], held[-SEAL_BYTES:]
            await _update(mac, archive)
            yield archive
    if not hmac.compare_digest(held, _seal(mac)):
        raise InvalidArchive(
            "the archive does not bear the seal of this installation: it was made elsewhere, changed, or cut short",
            hint="Export it again; nodes that have the same `archive.key` take in each other's.",
        )


def _seal(mac: hmac.HMAC) -> bytes:
    return (_MAGIC + mac.hexdigest().encode()).ljust(SEAL_BYTES - 1) + b"\n"


async def _update(mac: hmac.HMAC, data: bytes) -> None:
    if len(data) < _LARGE:
        mac.update(data)
    else:
        await asyncio.to_thread(mac.update, data)
