"""What COPY steps copy: archives that clients send ahead of a build, each once."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator
from urllib.parse import urlencode

from hutch.control.context import Context
from hutch.errors import InvalidRequest, PayloadTooLarge, Unauthorized
from hutch.store.template_files import FilesRow, files_blob

_VALID = 2 * 3600.0
"""Seconds in which a link has to be used. Clients give themselves an hour."""


class BuildUploads:
    """Found by the client's hash, within its organisation; kept by their content."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._files = context.store.template_files
        self._arriving: Counter[str] = Counter()
        """Bytes of each organisation that are on their way and not counted yet."""

    async def present(self, org: str, hash: str) -> bool:
        """Whether they are here already; they count as used then."""
        row = await self._files.use(org, hash, time.time())
        return row is not None and await self._context.blobs.size(row.blob) == row.size

    def query(self, org: str, template_id: str, hash: str) -> str:
        """What makes a link one that may be written to, for a while."""
        expires = int(time.time() + _VALID)
        return urlencode({"expires": expires, "signature": self._signature(org, template_id, hash, expires)})

    def check(self, org: str, template_id: str, hash: str, expires: str, signature: str) -> None:
        """Raises `Unauthorized` unless `query` has made it."""
        if not (expires.isascii() and expires.isdigit() and len(expires) < 16):
            raise Unauthorized("this link has no signature", hint="")
        wanted = self._signature(org, template_id, hash, int(expires))
        if not hmac.compare_digest(wanted.encode(), signature.encode()):
            raise Unauthorized("the signature of this link is wrong", hint="")
        if int(expires) < time.time():
            raise Unauthorized("this link is too old: ask for a new one", hint="")

    async def take_in(self, org: str, hash: str, chunks: AsyncIterator[bytes]) -> int:
        """Whole or not at all; how many bytes. Raises `PayloadTooLarge`, `DiskFull`, `InvalidRequest`."""
        blobs, most = self._context.blobs, self._context.settings.max_upload
        room = most - await self._files.total(org)
        sum, taken = hashlib.sha256(), 0
        too_much = PayloadTooLarge(f"at most {most} bytes of files for builds are kept of an organisation")
        passing = f"templates/{org}/sent-{secrets.token_hex(16)}"

        async def counted() -> AsyncIterator[bytes]:
            nonlocal taken
            async for chunk in chunks:
                taken += len(chunk)
                self._arriving[org] += len(chunk)
                if self._arriving[org] > room:
                    raise too_much
                sum.update(chunk)
                yield chunk

        try:
            size = await blobs.put(passing, counted(), most)
            if size == 0:
                raise InvalidRequest("nothing was sent")
            if size > most - await self._files.total(org):  # others have come meanwhile
                raise too_much
            await blobs.rename(passing, files_blob(org, sum.hexdigest()))
            now = time.time()
            await self._files.put(FilesRow(org, hash, sum.hexdigest(), size, now, now))
            return size
        except BaseException:
            await blobs.delete(passing)
            raise
        finally:
            self._arriving[org] -= taken

    async def forget_unused(self, before: float) -> None:
        """Remove what no build has asked for since then."""
        for row in await self._files.unused(before, time.time() - self._context.settings.build_timeout):
            if await self._files.forget(row):
                await self._context.blobs.delete(row.blob)

    def _signature(self, org: str, template_id: str, hash: str, expires: int) -> str:
        return self._context.vault.token(f"template files:{org}:{template_id}:{hash}:{expires}")
